"""What a PBS server says of itself, for people who set a cluster up."""

import re
from dataclasses import dataclass

from prefect_campaign.launch.pbs.errors import failure_of, reason
from prefect_campaign.launch.queue.jobs import Run, Said
from prefect_campaign.model.errors import CampaignError, Transient

_VERSION = re.compile(r"pbs_version = (\S+)|[Vv]ersion[:=]? *(\S+)")
_NOBODY = "pc-000000000000"


@dataclass(frozen=True)
class PbsFacts:
    """One server, and the queue that jobs are meant for."""

    version: str
    """Empty if it does not tell."""
    queue_problem: str
    """Why jobs cannot go to the queue, or would not start there now; empty if they can."""
    queue_missing: bool
    history: bool | None
    """Whether it remembers ended jobs; None if that cannot be seen."""


async def inspect_pbs(run: Run, folder: str, queue: str, seconds: float = 10.0) -> PbsFacts:
    """Ask for its version, the queue and its memory.

    Args:
        run: runs commands where PBS is.
        folder: of the commands, with a slash at its end; empty: they are on PATH.
        queue: the queue; empty: the server's default, which is not looked at.
        seconds: for each call.

    Raises:
        CampaignError: its commands are not there, or it does not answer.
    """
    said = await run([f"{folder}qstat", "-B", "-f"], seconds)
    if said.code != 0 and failure_of(said) == "away":
        raise Transient(f"PBS does not answer: {reason(said)}; see that its server is up")
    for program in ("qsub", "qdel"):
        await run([f"{folder}{program}", "--version"], seconds)
    found = _VERSION.search(said.out)
    version = next(filter(None, found.groups()), "") if found else ""
    problem, missing = await _queue(run, folder, queue, seconds) if queue else ("", False)
    return PbsFacts(version, problem, missing, await _history(run, folder, seconds))


async def _queue(run: Run, folder: str, queue: str, seconds: float) -> tuple[str, bool]:
    said = await run([f"{folder}qstat", "-Q", "-f", queue], seconds)
    if said.code != 0:
        return (f"queue {queue}: {reason(said)}", True) if "unknown queue" in _text(said) else ("", False)
    off = [name for name in ("enabled", "started") if re.search(rf"^\s*{name} = False", said.out, re.MULTILINE)]
    return (f"queue {queue} is not {' and not '.join(off)}" if off else ""), False


async def _history(run: Run, folder: str, seconds: float) -> bool | None:
    try:
        said = await run([f"{folder}qselect", "-x", "-N", _NOBODY], seconds)
    except CampaignError:  # older releases have no qselect
        return None
    if said.code == 0:
        return True
    return False if failure_of(said) == "history" else None


def _text(said: Said) -> str:
    return f"{said.err}\n{said.out}".lower()
