"""Run dirs of a host, mirrored to where the ledger knows them, so that whoever reads logs and metrics finds them."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect_campaign.launch.job_files import signal_of
from prefect_campaign.launch.record import take_record
from prefect_campaign.launch.script import CLAIM_NAME, RECORD_NAME
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Observation

LARGEST_WHILE_RUNNING = "256m"
"""Larger files come at the end only; every other job of the host waits for the copying."""


@dataclass(frozen=True)
class Missing:
    """Why not all files of a run dir are here."""

    why: str
    failed: bool
    """Whether nothing can be said of any file; else only some cannot be copied, and trying again changes nothing."""


async def mirror(
    connection: Connection, place: RemotePlace, specs: Sequence[AttemptSpec], *, final: bool
) -> dict[str, Missing]:
    """Copy what is new in the run dirs; nothing here is ever deleted, and exit records are left out.

    Args:
        connection: to the host.
        place: its folders.
        specs: attempts of which all is copied.
        final: whether they are over, so that large files come as well.

    Returns:
        Token -> what is missing, for those of which something may be.
    """
    problems: dict[str, Missing] = {}
    groups: dict[tuple[Path, str], list[AttemptSpec]] = {}
    for spec in specs:
        if not connection.host.is_shared(spec.run_dir):
            there = os.path.dirname(os.path.dirname(place.run_dir(spec)))
            groups.setdefault((Path(spec.run_dir).parents[1], there), []).append(spec)
    options = [f"--exclude=/*/*/{name}" for name in (RECORD_NAME, f"{RECORD_NAME}.new", f"{CLAIM_NAME}/stop")]
    # Window -1: times are compared to the nanosecond, so that a file that was rewritten at once comes again.
    options += ["--modify-window=-1", "--safe-links", *(f"--exclude={pattern}" for pattern in connection.host.exclude)]
    # At the end large files come too, and what was copied of one is kept if the connection breaks.
    options.append("--partial-dir=.partial" if final else f"--max-size={LARGEST_WHILE_RUNNING}")
    for (here, there), some in groups.items():
        names = [os.fsencode(Path(spec.run_dir).relative_to(here)) for spec in some]
        try:
            here.mkdir(parents=True, exist_ok=True)
            left = await connection.rsync(options, f"h:{there}/", f"{here}/", names)
        except (CampaignError, OSError) as error:
            problems |= {spec.token: Missing(str(error), failed=True) for spec in some}
        else:
            problems |= {spec.token: Missing(left, failed=False) for spec in some if left}
    return problems


def put_record(spec: AttemptSpec, content: bytes, recorded_at: float | None) -> None:
    """Write an exit record that was read on the host. It comes last: where it is, all other files are.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(spec.run_dir) / RECORD_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{RECORD_NAME}.{secrets.token_hex(4)}.new")  # two may be looking at once
    new.write_bytes(content)
    if recorded_at is not None:
        os.utime(new, (recorded_at, recorded_at))
    new.replace(path)


def local_end(spec: AttemptSpec) -> tuple[Observation | None, str]:
    """What the record in the local run dir says, and a line if a damaged one was set aside.

    Raises:
        OSError: there may be a record, but it cannot be read.
    """
    record, problem = take_record(Path(spec.run_dir), spec.token)
    if record is None:
        return None, problem
    started_at = started(spec)
    return (
        Observation(
            "exited",
            exit_code=record.exit_code,
            signal=signal_of(record.exit_code),
            started_at=started_at,
            ended_at=max(record.ended_at, started_at or 0.0),
        ),
        "",
    )


def started(spec: AttemptSpec) -> float | None:
    """When the job claimed its run dir, in seconds since the epoch; None if it has not, or that is not here yet."""
    with suppress(OSError):
        return (Path(spec.run_dir) / CLAIM_NAME / "pid").stat().st_mtime
    return None
