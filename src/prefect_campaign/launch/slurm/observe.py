"""What may be said of many jobs of one cluster: by one squeue, at most one sacct, and what the jobs left themselves."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from prefect_campaign.launch.fading import Fading
from prefect_campaign.launch.slurm.doubt import Doubt, Job
from prefect_campaign.launch.slurm.files import RunDirs, Trace, with_detail
from prefect_campaign.launch.slurm.reasons import NEVER, pending_detail
from prefect_campaign.launch.slurm.scheduler import Scheduler
from prefect_campaign.launch.slurm.sleep import Sleep
from prefect_campaign.launch.slurm.state import HELD, OVER, WAITING, telling
from prefect_campaign.launch.slurm.text import Row
from prefect_campaign.launch.slurm.view import View, split_id
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Handle, Observation
from prefect_campaign.model.text import printable

ABSENT_SECONDS = 60.0
"""So long a job is looked for that Slurm showed before, or should show."""
_LONGEST_AGAIN = 600.0
_MEMORY = re.compile(r"exceeded (step |job )?memory limit|oom[-_ ]kill", re.IGNORECASE)


class Observer:
    """Sees the jobs of one cluster. Silence changes nothing: in doubt, a job is what it was.

    Args:
        name: of the cluster.
        scheduler: asks it.
        files: the run dirs.
        clock: seconds since the epoch.
        steady: seconds of a clock that does not jump.
        record_seconds: how long the record of a job that is over may take to appear.
        holder: the handle of the job of an attempt that claimed its run dir with this id.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        files: RunDirs,
        clock: Clock,
        steady: Clock,
        *,
        record_seconds: float,
        holder: Callable[[AttemptSpec, str], Awaitable[Handle]],
    ) -> None:
        self.cancelled: Fading[bool] = Fading(steady)
        """Tokens of jobs that were cancelled from here and seen to be gone: absence is what was asked for."""
        self.holders: Fading[Handle] = Fading(steady)
        """Token -> the job that was seen to hold its run dir, where that is another one than was asked for."""
        self._name = name
        self._holder = holder
        self._scheduler = scheduler
        self._files = files
        self._sleep = Sleep(name, clock, steady)
        self._clock = clock
        self._steady = steady
        self._record_seconds = record_seconds
        self.undecided = False
        """Whether the last look could not say of some job what became of it."""
        self._doubts: Fading[Doubt] = Fading(steady)
        self._shown: dict[Row, Observation] = {}
        self._last: View | None = None

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]], *, max_age: float) -> dict[str, Observation]:
        """Token -> what is seen of that job.

        Args:
            handles: the jobs.
            max_age: how old an answer of squeue may be, in seconds.
        """
        found = await self._seen(handles, max_age)
        self.undecided = any(t in self._doubts for t, one in found.items() if one.status not in ("exited", "gone"))
        return found

    async def _seen(self, handles: Sequence[tuple[AttemptSpec, Handle]], max_age: float) -> dict[str, Observation]:
        found: dict[str, Observation] = {}
        jobs = [job for spec, handle in handles if (job := self._job(spec, handle, found)) is not None]
        if not jobs:
            return found
        view, silence = None, ""
        try:
            view = await self._scheduler.queue({job.name for job in jobs}, max_age=max_age)
        except CampaignError as error:
            silence = str(error)
        if view is not self._last:
            self._shown.clear()
            self._last = view
        rows = {job.spec.token: view.row(job.name, job.base, job.index) if view else None for job in jobs}
        others = []
        for job in jobs:
            row = rows[job.spec.token]
            if row is not None and row.state in WAITING:
                found[job.spec.token] = self._waiting(job, row)
            else:
                others.append(job)
        traces = await self._files.traces([job.spec for job in others]) if others else {}
        others, view, silence = await self._followed(others, rows, traces, view, silence, max_age)
        missing = []
        for job in others:
            token = job.spec.token
            row = rows[token]
            if row is not None and row.state in WAITING:
                found[token] = self._waiting(job, row)
                continue
            one = self._judged(job, row, traces[token], view, silence)
            if one is not None:
                found[token] = one
            else:
                missing.append(job)
        if missing and view is not None:
            await self._ask_accounts(missing)
            for job in missing:
                found[job.spec.token] = self._absent(job, traces[job.spec.token])
        for job in others:
            one = found[job.spec.token]
            if one.status == "gone" and one.scheduler_state in ("FAILED", "OUT_OF_MEMORY"):
                found[job.spec.token] = await self._explained(job, one)
        found |= await self._sleep.excuse([(job.spec, found[job.spec.token]) for job in others])
        self._tidy(found)
        return found

    async def _followed(
        self,
        jobs: list[Job],
        rows: dict[str, Row | None],
        traces: dict[str, Trace],
        view: View | None,
        silence: str,
        max_age: float,
    ) -> tuple[list[Job], View | None, str]:
        """The same, but in place of a job whose run dir another one holds, that one: of it the trace tells."""
        held = {}
        for job in jobs:
            trace = traces[job.spec.token]
            if trace.claimed_by in ("", job.id) or trace.unread or (trace.end is not None and not trace.stopped):
                continue
            try:
                handle = await self._holder(job.spec, trace.claimed_by)
            except CampaignError as error:
                traces[job.spec.token] = replace(trace, unread=str(error))
                continue
            other = self._job(job.spec, handle, {})
            if other is None or other.id != trace.claimed_by:
                why = f"{job.spec.run_dir} is held by {trace.claimed_by!r:.60}, not by job {job.id}"
                traces[job.spec.token] = replace(trace, unread=why)
                continue
            held[job.spec.token] = other
            if self.holders.get(job.spec.token) != handle:
                self._doubts.pop(job.spec.token)  # they were about another job
                self.holders.set(job.spec.token, handle)
        names = {job.name for job in held.values()}
        if view is not None and not view.covers(names):
            try:
                view = self._last = await self._scheduler.queue(names, max_age=max_age)
            except CampaignError as error:
                view, silence = None, str(error)
        for token, job in held.items():
            rows[token] = view.row(job.name, job.base, job.index) if view else None
        return [held.get(job.spec.token, job) for job in jobs], view, silence

    def _doubt(self, job: Job, now: float) -> Doubt:
        return self._doubts.get(job.spec.token) or self._doubts.set(job.spec.token, Doubt(now))

    def _tidy(self, found: dict[str, Observation]) -> None:
        """Forget what is over for good, and what nobody asks for any more.

        One that is `gone` is told again to whoever asks again, so that it only fades.
        """
        for memory in (self._doubts, self.cancelled, self.holders):
            for token in [token for token, one in found.items() if one.status == "exited"] if len(memory) else []:
                memory.pop(token)
            memory.sweep()

    def _job(self, spec: AttemptSpec, handle: Handle, found: dict[str, Observation]) -> Job | None:
        id_ = split_id(handle.job_id)
        name, at = handle.detail.get("name"), handle.detail.get("submitted_at")
        if handle.host != self._name:
            found[spec.token] = Observation("unreachable", detail=f"runs on {handle.host}, not on {self._name}")
            return None
        if id_ is None or not isinstance(name, str):
            found[spec.token] = Observation("unreachable", detail=f"its id {handle.job_id!r:.60} is none of Slurm's")
            return None
        return Job(spec, handle, name, id_.base, id_.task, float(at) if isinstance(at, int | float) else 0.0)

    def _waiting(self, job: Job, row: Row) -> Observation:
        self._doubts.pop(job.spec.token)
        grouped = row.id.tasks is not None
        if grouped and row in self._shown:
            return self._shown[row]  # thousands of tasks wait in one row
        detail = pending_detail(row.reason, row.id.base if grouped else job.id, held=row.state in HELD)
        stuck = detail.startswith(NEVER)
        seen = Observation("pending", detail=detail, scheduler_state=row.state, stuck=stuck)
        if grouped:
            self._shown[row] = seen
        return seen

    def _judged(self, job: Job, row: Row | None, trace: Trace, view: View | None, silence: str) -> Observation | None:
        """What is known without the accounts; None if they must be asked."""
        token, now = job.spec.token, self._steady()
        doubt = self._doubts.get(token)
        if trace.unread:
            return Observation("unreachable", detail=trace.unread)
        if trace.end is not None and not trace.stopped:
            self._doubts.pop(token)
            state = row.state if row is not None and row.state in OVER else None
            return with_detail(trace, scheduler_state=telling(state), node=row.node if row else "")
        if view is None:
            detail = "; ".join(filter(None, (trace.problem, silence)))
            return Observation("unreachable", started_at=trace.started_at, detail=detail)
        if row is None and doubt is not None and doubt.final is not None:
            row = doubt.final
        if row is None:
            # One from the future says nothing: the wall clock was put back.
            if view.asked_at <= job.submitted_at <= self._clock() and token not in self.cancelled:
                return Observation("pending", detail="waits: was just handed over")
            doubt = self._doubt(job, now)
            if doubt.serial != view.serial:
                doubt.looks, doubt.serial = doubt.looks + 1, view.serial
            return None
        if row.state not in OVER:
            self._doubts.pop(token)
            return Observation(
                "running",
                started_at=trace.started_at,
                detail="; ".join(filter(None, (trace.problem, "" if row.state == "RUNNING" else row.state.lower()))),
                scheduler_state=row.state,
                node=row.node,
                # One that is suspended, or is being ended, may well be silent.
                quiet_since=trace.quiet_since if row.state == "RUNNING" else None,
            )
        return self._over(job, row, trace, now)

    def _over(self, job: Job, row: Row, trace: Trace, now: float) -> Observation:
        """Slurm says that the job is over for good."""
        if trace.end is not None:
            self._doubts.pop(job.spec.token)
            return with_detail(trace, scheduler_state=row.state, node=row.node)
        doubt = self._doubt(job, now)
        doubt.final = row
        if doubt.over_since is None:
            doubt.over_since = now
        ran = bool(row.node) or bool(trace.claimed_by)
        if ran and not trace.problem and now - doubt.over_since < self._record_seconds:
            detail = f"is over ({row.state}); its exit record is waited for"
            return Observation("running", started_at=trace.started_at, detail=detail, node=row.node)
        why = trace.problem or f"Slurm says {row.state}, and there is no exit record in {job.spec.run_dir}"
        return Observation(
            "gone",
            started_at=trace.started_at,
            detail=why,
            scheduler_state=row.state,
            oom_killed=row.state == "OUT_OF_MEMORY" or None,
            node=row.node,
        )

    async def _explained(self, job: Job, seen: Observation) -> Observation:
        """With what Slurm wrote into the job's own log: why it could not be launched, or that memory ran out."""
        name = job.name if job.index is None else f"{job.name}-{job.index}"
        text = await self._files.said(job.spec, self._name, f"{name}.log")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        memory = [line for line in lines if _MEMORY.search(line)]
        if not lines:
            return seen
        last = printable((memory or lines)[-1])[:200]
        return replace(seen, detail=f"{seen.detail}; {last}", oom_killed=bool(memory) or seen.oom_killed)

    async def _ask_accounts(self, missing: Sequence[Job]) -> None:
        """One sacct for all that are due."""
        now = self._steady()
        doubts = {job.spec.token: self._doubt(job, now) for job in missing}
        due = [job for job in missing if doubts[job.spec.token].ask_at <= now]
        if not due:
            return
        why, view = "", None
        try:
            since = min(job.submitted_at for job in due)
            view = await self._scheduler.accounts(ids=(job.base for job in due), since=since)
        except CampaignError as error:
            why = str(error)
        for job in due:
            doubt = doubts[job.spec.token]
            doubt.ask_at, doubt.pause = now + doubt.pause, min(2 * doubt.pause, _LONGEST_AGAIN)
            doubt.accounts = why
            row = view.row(job.name, job.base, job.index) if view else None
            doubt.alive = row.state if row is not None and row.state not in OVER else ""
            if row is not None and row.state in OVER:
                doubt.final = row

    def _absent(self, job: Job, trace: Trace) -> Observation:
        """What is said of a job that squeue does not show."""
        token, now = job.spec.token, self._steady()
        doubt = self._doubt(job, now)
        if doubt.final is not None:
            return self._over(job, doubt.final, trace, now)
        waited = now - doubt.since >= ABSENT_SECONDS and doubt.looks >= 2
        before = "running" if trace.claimed_by else "pending"
        if token in self.cancelled:
            # A task that is cancelled while it waits leaves no row anywhere.
            if trace.end is not None:
                return with_detail(trace, scheduler_state="CANCELLED")
            return Observation("gone", started_at=trace.started_at, detail="was cancelled", scheduler_state="CANCELLED")
        if not waited:
            detail = f"{self._name} does not show job {job.id} now; it is looked for again"
            return Observation(before, started_at=trace.started_at, detail=detail)  # type: ignore[arg-type]
        if doubt.alive or doubt.accounts:
            why = f"the accounts say {doubt.alive}" if doubt.alive else doubt.accounts
            detail = f"{self._name}: squeue does not show job {job.id}, and {why}"
            return Observation("unreachable", started_at=trace.started_at, detail=detail)
        if trace.end is not None:
            return with_detail(trace)
        detail = trace.problem or f"neither squeue nor sacct knows job {job.id}, and there is no exit record"
        return Observation("gone", started_at=trace.started_at, detail=detail)
