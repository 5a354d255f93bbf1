"""Where a queue's commands are run and its jobs' files are: this machine, or one that is reached by SSH."""

import asyncio
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from prefect_campaign.launch.checkpoints import Checkpoints
from prefect_campaign.launch.job_files import signal_of, write_script
from prefect_campaign.launch.queue.jobs import Said
from prefect_campaign.launch.queue.silence import SilenceReader
from prefect_campaign.launch.record import take_record
from prefect_campaign.launch.script import CLAIM_NAME, RECORD_NAME
from prefect_campaign.launch.ssh.program import run_program
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Observation

JOB_NAME = "job"
"""File in the claim; its first word is the scheduler's id of the job that made it."""

_LONGEST_ID = 512
_PASSING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO, errno.ESTALE})


@dataclass(frozen=True)
class Trace:
    """What the run dir of an attempt tells."""

    over: Observation | None = None
    """How the job ended, by its own record."""
    started_at: float | None = None
    """When the job claimed its run dir, in seconds since the epoch; None if it has not."""
    job_id: str = ""
    """What the job that made the claim says is its id."""
    notes: tuple[str, ...] = ()
    """For people: a damaged record that was set aside."""
    unseen: str = ""
    """Why the run dir cannot be looked at; then nothing else is known."""
    quiet_since: float | None = None
    """As in an `Observation`."""
    stopped: bool = False
    """Whether the job was stopped before it ended, whatever its exit code: its scheduler may run it again."""


class Place(Protocol):
    """Runs commands and keeps run dirs."""

    cheap: bool
    """Whether run dirs can be looked at every few seconds."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Those of the nodes; None if the nodes have the same files as this machine."""
        ...

    async def run(self, argv: Sequence[str], seconds: float) -> Said:
        """Run a program; see `queue_jobs.Run`."""
        ...

    async def there(self, spec: AttemptSpec) -> AttemptSpec:
        """The attempt as it is run there; its code is there afterwards.

        Raises:
            CampaignError: it cannot be run there, now or ever.
        """
        ...

    async def run_dir(self, spec: AttemptSpec) -> str:
        """Its run dir there."""
        ...

    async def put(self, there: AttemptSpec, files: Mapping[str, str]) -> None:
        """Put files (name -> text) into the run dir there.

        Raises:
            Transient: they are not there, and may be later.
            Refused: they are not there, and cannot be.
            Unknown: the run dir is claimed by a job already.
        """
        ...

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """Token -> what its run dir tells, of all of them at once; files that are new there are here afterwards."""
        ...

    async def reopen(self, spec: AttemptSpec) -> None:
        """Its record was not the last word: go by a copy of it no longer."""
        ...


@dataclass(frozen=True)
class Here:
    """This machine: the scheduler's commands are on its PATH, and its jobs see the same files under the same paths."""

    name: str
    path: Sequence[str] = ()
    """Folders put in front of ``PATH`` for jobs."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables for jobs; those of the experiment win."""
    clock: Clock = system_clock
    """Seconds since the epoch."""
    cheap = True
    checkpoints = None

    async def run(self, argv: Sequence[str], seconds: float) -> Said:
        """Run it; its standard input is empty."""
        if shutil.which(argv[0]) is None:
            raise Refused(f"{self.name}: {argv[0]} is not installed on this machine; is it in a folder not on PATH?")
        try:
            code, out, err = await run_program(argv, b"", seconds)
        except TimeoutError:
            raise Unknown(f"{self.name}: {argv[0]} did not end within {seconds:g} s") from None
        return Said(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    async def there(self, spec: AttemptSpec) -> AttemptSpec:
        """The attempt itself, with this process's ``PATH``, which a scheduler would not give it."""
        path = ":".join([*self.path, os.environ.get("PATH", os.defpath)])
        return replace(spec, env={"PATH": path, **self.env, **spec.env})

    async def run_dir(self, spec: AttemptSpec) -> str:
        """The same path."""
        return spec.run_dir

    async def put(self, there: AttemptSpec, files: Mapping[str, str]) -> None:
        """Put them there, each whole."""
        await asyncio.to_thread(_put, there, files)

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """Read the records and claims."""
        return await asyncio.to_thread(self._traces, specs)

    async def reopen(self, spec: AttemptSpec) -> None:
        """Nothing: the job itself puts its record aside when it is run again."""

    def _traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        silence = SilenceReader(self.clock)
        found = {spec.token: read_trace(spec) for spec in specs}
        for spec in specs:
            trace = found[spec.token]
            if trace.started_at is not None and trace.over is None and not trace.unseen:
                found[spec.token] = replace(trace, quiet_since=silence.quiet_since(spec.run_dir))
        return found


def make_folders(spec: AttemptSpec) -> None:
    """Make the local run dir and the folder of checkpoints.

    Raises:
        Transient: there is no room for them now.
        Refused: they cannot be made.
    """
    try:
        Path(spec.checkpoint_dir).mkdir(parents=True, exist_ok=True)
        Path(spec.run_dir).mkdir(exist_ok=True)
    except OSError as error:
        raise file_error(spec, error) from error


def file_error(spec: AttemptSpec, error: OSError) -> Transient | Refused:
    """What a failed file operation in the run dir means."""
    kind = Transient if error.errno in _PASSING else Refused
    return kind(f"{spec.token}: {spec.run_dir}: {error.strerror or error}")


def _put(spec: AttemptSpec, files: Mapping[str, str]) -> None:
    run_dir = Path(spec.run_dir)
    try:
        if (run_dir / CLAIM_NAME).exists() or (run_dir / RECORD_NAME).exists():
            raise Unknown(f"{spec.token}: {run_dir} is claimed by a job already; look for that one first")
        for name, text in files.items():
            write_script(run_dir / name, text)
    except OSError as error:
        raise file_error(spec, error) from error


def read_trace(spec: AttemptSpec) -> Trace:
    """What the local run dir tells."""
    claim = Path(spec.run_dir) / CLAIM_NAME
    started_at, job_id = None, ""
    try:
        stopped = os.path.lexists(claim / "stop")
        with suppress(FileNotFoundError):
            started_at = claim.stat().st_mtime
            with (claim / "pid").open() as file:  # a requeued job wrote it anew
                started_at = os.fstat(file.fileno()).st_mtime
            with (claim / JOB_NAME).open("rb") as stored:
                job_id = (stored.read(_LONGEST_ID).decode("utf-8", "replace").split() or [""])[0]
            job_id = "" if job_id == "-" else job_id
        record, problem = take_record(Path(spec.run_dir), spec.token)
    except OSError as error:
        return Trace(unseen=f"{spec.run_dir}: {error.strerror or error}")
    notes = (problem,) if problem else ()
    if record is None:
        return Trace(started_at=started_at, job_id=job_id, notes=notes)
    over = Observation(
        "exited",
        exit_code=record.exit_code,
        signal=signal_of(record.exit_code),
        started_at=started_at,
        ended_at=max(record.ended_at, started_at or 0.0),
    )
    return Trace(over, started_at, job_id, notes, stopped=stopped or record.stopped)
