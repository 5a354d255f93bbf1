"""The Slurm launcher: experiments as jobs and arrays of one cluster, watched by one squeue for all of them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect_campaign.launch.fading import Fading
from prefect_campaign.launch.poller import Poller
from prefect_campaign.launch.script import STDERR_NAME, STDOUT_NAME
from prefect_campaign.launch.slurm.cancel import Canceller
from prefect_campaign.launch.slurm.files import RunDirs, SharedRunDirs
from prefect_campaign.launch.slurm.find import Finder
from prefect_campaign.launch.slurm.manifest import Manifests
from prefect_campaign.launch.slurm.observe import Observer
from prefect_campaign.launch.slurm.programs import LocalPrograms, Programs
from prefect_campaign.launch.slurm.scheduler import Scheduler
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.slurm.submit import SLURM, Submitter
from prefect_campaign.launch.slurm.view import split_id
from prefect_campaign.model.clock import Clock, steady_clock, system_clock
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Transient
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

POLL_SECONDS = 30.0
_LOOK_SECONDS = 30.0
"""How old an answer may be that `look` goes by."""
_DOUBT_SECONDS = 10.0
"""How old an answer may be while something is in doubt."""
_RECORD_SECONDS = 2.0
"""An end is seen so soon, without asking Slurm."""
_NOTHING = "pc-nothing"
"""A name that no job has: to see whether Slurm answers."""

log = logging.getLogger("prefect_campaign")


class SlurmLauncher:
    """Runs attempts on one Slurm cluster.

    Args:
        settings: of the cluster.
        programs: runs Slurm's programs; by default those of this machine.
        files: the run dirs; by default on a file system that the nodes share with this machine.
        poll_seconds: how old an answer of Slurm may be.
        clock: seconds since the epoch.
        steady: seconds of a clock that does not jump.
    """

    name = SLURM

    def __init__(
        self,
        settings: SlurmSettings,
        *,
        programs: Programs | None = None,
        files: RunDirs | None = None,
        poll_seconds: float = POLL_SECONDS,
        clock: Clock = system_clock,
        steady: Clock = steady_clock,
    ) -> None:
        self.settings = settings
        self.slots = settings.max_jobs
        self.poll_seconds = poll_seconds
        self._clock = clock
        programs = programs or LocalPrograms(settings.programs, settings.conf)
        files = files or SharedRunDirs(clock)
        self.checkpoints = files.checkpoints
        manifests = Manifests(settings.name, steady)
        self._scheduler = Scheduler(settings.name, programs, clock)
        self._submitter = Submitter(settings, programs, self._scheduler, files, manifests, clock)
        self._finder = Finder(settings.name, self._scheduler, files, manifests, clock, steady)
        self._observer = Observer(
            settings.name,
            self._scheduler,
            files,
            clock,
            steady,
            record_seconds=settings.record_seconds,
            holder=self._finder.holder,
        )
        self._canceller = Canceller(settings.name, programs, self._scheduler, steady)
        self._absent: Fading[bool] = Fading(steady)
        """Tokens of which `find` could say that there is no job."""
        self._poller = Poller(settings.name, self.observe, lambda: self.poll_seconds, record_seconds=_RECORD_SECONDS)

    @property
    def unsettled(self) -> bool:
        """Whether a job is looked for again, or its record waited for: that is in memory alone."""
        return self._observer.undecided or self._finder.undecided

    async def look(self) -> list[HostView]:
        """The queue; if Slurm does not answer, that is its problem."""
        problem = ""
        try:
            await self._scheduler.queue([_NOTHING], max_age=max(_LOOK_SECONDS, self.poll_seconds))
        except CampaignError as error:
            problem = str(error)
        view = HostView(
            self.settings.name,
            self.slots,
            problem=problem,
            factor=self.settings.factor,
            launcher=SLURM,
            queue=True,
            seen_at=self._clock(),
        )
        return [view]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Hand one attempt over.

        Raises:
            Transient: nothing was handed over; it may work later.
            Refused: this spec, or the cluster's settings, can never work.
            Unknown: it may have been handed over, now or before: look with `find`.
        """
        answer = (await self.submit_all([spec]))[spec.token]
        if isinstance(answer, CampaignError):
            raise answer
        return answer

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Hand many attempts over, those of one shape as arrays; each submission is on disk before it is made."""
        free = frozenset(spec.token for spec in specs if spec.token in self._absent)
        for token in free:
            self._absent.pop(token)
        return await self._submitter.submit(specs, free)

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The job of this attempt by its claim, its manifest, or its name in squeue and then sacct.

        Of several the one that runs stays, or else the first one, and the others are cancelled.

        Raises:
            Unknown: there may be one; look again later.
            Transient: Slurm cannot be asked now, so that nothing is known; or a further job does not end.
        """
        found = await self._finder.find(spec)
        if found.handle is None:
            self._absent.set(spec.token, True)
        for other in found.rest:
            log.warning(
                "%s: job %s on %s is a second one of this attempt; it is cancelled",
                spec.token,
                other.job_id,
                self.settings.name,
            )
            await self._end(f"{spec.token} (job {other.job_id})", other, 0.0)
        spare = await self._finder.spare(found)
        if spare:
            log.warning("%s: %d other tasks are there twice; they are cancelled", self.settings.name, len(spare))
        await asyncio.gather(*(self._end(f"{token} (job {one.job_id})", one, 0.0) for token, one in spare))
        await self._finder.settle(spec, found)
        return found.handle

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """See many jobs by one squeue, not older than `poll_seconds`, and at most one sacct."""
        self._absent.sweep()
        return await self._observer.observe(handles, max_age=self._max_age())

    def _max_age(self) -> float:
        return min(self.poll_seconds, _DOUBT_SECONDS) if self.unsettled else self.poll_seconds

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the job: Slurm sends TERM and, after its own KillWait or the grace, KILL. Believed only when seen.

        Raises:
            Transient: Slurm cannot be asked, or the job is still there.
        """
        holder = self._observer.holders.get(spec.token)
        if holder is not None and holder.job_id != handle.job_id:
            await self._end(f"{spec.token} (job {holder.job_id})", holder, grace_seconds)
        await self._end(spec.token, handle, grace_seconds)
        self._observer.cancelled.set(spec.token, True)

    async def _end(self, what: str, handle: Handle, grace_seconds: float) -> None:
        id_, name, at = split_id(handle.job_id), handle.detail.get("name"), handle.detail.get("submitted_at")
        if handle.host != self.settings.name or id_ is None or not isinstance(name, str):
            raise Transient(f"{what}: {handle.host} {handle.job_id!r:.60} is no job of {self.settings.name}")
        since = float(at) if isinstance(at, int | float) else 0.0
        await self._canceller.cancel(what, name, id_.base, id_.task, grace_seconds, submitted_at=since)

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once the job is over; one poller looks after all jobs."""
        self._poller.follow(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt."""
        run_dir = Path(spec.run_dir)
        return run_dir / STDOUT_NAME, run_dir / STDERR_NAME

    def close(self) -> None:
        """Stop watching; jobs go on and can be found again."""
        self._poller.close()
        self._canceller.close()
