"""Run dirs of jobs on a cluster whose nodes share a file system with this machine."""

import asyncio
import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from prefect_campaign.launch.checkpoints import Checkpoints
from prefect_campaign.launch.job_files import signal_of, write_script
from prefect_campaign.launch.queue.silence import SilenceReader
from prefect_campaign.launch.record import ExitRecord, take_record
from prefect_campaign.launch.script import CLAIM_NAME, SCRIPT_NAME
from prefect_campaign.launch.slurm.manifest import FOLDER, durable
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Observation

_PASSING = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
)

LOG_TAIL = 4000
"""Bytes of Slurm's own log that are looked at."""


@dataclass(frozen=True)
class Trace:
    """What a job left in its run dir."""

    end: Observation | None = None
    """What its exit record says."""
    stopped: bool = False
    """Whether the job was stopped from outside before it ended: its scheduler may run it again."""
    claimed_by: str = ""
    """The scheduler's id of the job that claimed the run dir; empty before that."""
    started_at: float | None = None
    quiet_since: float | None = None
    """As in an `Observation`."""
    problem: str = ""
    """A line on a record that was damaged and set aside."""
    unread: str = ""
    """Why nothing can be said; empty if all of the above is so."""


class RunDirs(Protocol):
    """The files of attempts, here and where the jobs run."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Those of the nodes; None if the nodes have the same files as this machine."""
        ...

    async def there(self, specs: Sequence[AttemptSpec]) -> dict[str, AttemptSpec | CampaignError]:
        """Token -> the attempt with the paths of the nodes, or why it cannot be brought there."""
        ...

    async def put(self, scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> dict[str, CampaignError]:
        """Make the run dirs of attempts and put `job.sh` into each.

        Args:
            scripts: the attempt as known here, the same with the paths of the nodes, text of its `job.sh`.

        Returns:
            Token -> why it was not done: `Unknown` where the run dir is claimed already.
        """
        ...

    async def put_list(self, folder: str, name: str, content: str) -> str:
        """Write a file that the nodes read, into a folder of the nodes; its path.

        Raises:
            CampaignError: it cannot be written.
        """
        ...

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """Token -> what the job left."""
        ...

    async def said(self, spec: AttemptSpec, cluster: str, name: str) -> str:
        """The end of what Slurm itself said of a job, by the name of its log; empty if that cannot be read."""
        ...


class SharedRunDirs:
    """Run dirs under the same path here and on all nodes.

    Args:
        clock: seconds since the epoch.
    """

    checkpoints = None

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock

    async def there(self, specs: Sequence[AttemptSpec]) -> dict[str, AttemptSpec | CampaignError]:
        """The attempts as they are."""
        return {spec.token: spec for spec in specs}

    async def put(self, scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> dict[str, CampaignError]:
        """Make the run dirs of attempts and put `job.sh` into each."""
        return await asyncio.to_thread(_put_all, scripts)

    async def put_list(self, folder: str, name: str, content: str) -> str:
        """Write a list for an array."""
        path = Path(folder) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(durable, path, content.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise _kind(error)(f"{path}: cannot be written: {error.strerror}") from error
        return str(path)

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """What the jobs left, read beside the event loop: a network file system may be slow."""
        return await asyncio.to_thread(self._traces, specs)

    def _traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        found, silence = {}, SilenceReader(self._clock)
        for spec in specs:
            trace = read_trace(spec)
            if trace.end is None and trace.claimed_by:
                trace = replace(trace, quiet_since=silence.quiet_since(spec.run_dir))
            found[spec.token] = trace
        return found

    async def said(self, spec: AttemptSpec, cluster: str, name: str) -> str:
        """The end of Slurm's own log of a job."""
        path = log_folder(spec.run_dir, cluster) / name
        with suppress(OSError):
            return (await asyncio.to_thread(path.read_bytes))[-LOG_TAIL:].decode("utf-8", "replace")
        return ""


def log_folder(run_dir: str, cluster: str) -> Path:
    """Where lists and Slurm's own logs are kept, for the run dir of an attempt."""
    return Path(run_dir).parents[1] / FOLDER / cluster


def read_trace(spec: AttemptSpec) -> Trace:
    """What a job left in its local run dir; a damaged record is set aside."""
    run_dir = Path(spec.run_dir)
    started_at, owner, problem = None, "", ""
    stop = run_dir / CLAIM_NAME / "stop"
    try:
        # Before the record and after it: it is made before a stopped run's record, and taken away after that.
        stopped = os.path.lexists(stop)
        record, problem = take_record(run_dir, spec.token)
        with suppress(FileNotFoundError):
            words = (run_dir / CLAIM_NAME / "job").read_text("ascii", "replace").split()
            owner = words[0] if words and words[0] != "-" else ""
        with suppress(FileNotFoundError):
            started_at = (run_dir / CLAIM_NAME / "pid").stat().st_mtime
        stopped = stopped or os.path.lexists(stop) or (record is not None and record.stopped)
    except OSError as error:
        return Trace(unread=f"{run_dir}: {error.strerror or error}")
    end = None if record is None else end_of(record, started_at)
    return Trace(end, stopped, owner, started_at, problem=problem)


def end_of(record: ExitRecord, started_at: float | None) -> Observation:
    """The end that a record tells."""
    return Observation(
        "exited",
        exit_code=record.exit_code,
        signal=signal_of(record.exit_code),
        started_at=started_at,
        ended_at=max(record.ended_at, started_at or 0.0),
    )


def with_detail(trace: Trace, **more: object) -> Observation:
    """The end that a trace tells, with what else is known."""
    assert trace.end is not None  # noqa: S101
    known: Mapping[str, object] = {name: value for name, value in more.items() if value}
    return replace(trace.end, **known)  # type: ignore[arg-type]


def _put_all(scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> dict[str, CampaignError]:
    failed: dict[str, CampaignError] = {}
    for spec, there, script in scripts:
        run_dir = Path(there.run_dir)
        try:
            Path(there.checkpoint_dir).mkdir(parents=True, exist_ok=True)
            run_dir.mkdir(exist_ok=True)
            if (run_dir / CLAIM_NAME).exists():
                failed[spec.token] = Unknown(f"{spec.token}: {run_dir} is claimed by a job already; look for that one")
                continue
            write_script(run_dir / SCRIPT_NAME, script)
        except OSError as error:
            failed[spec.token] = _kind(error)(f"{spec.token}: {run_dir} cannot be made: {error.strerror or error}")
    return failed


def _kind(error: OSError) -> type[CampaignError]:
    return Transient if error.errno in _PASSING else Refused
