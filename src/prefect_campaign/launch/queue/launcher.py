"""The launcher of queues: jobs handed to a scheduler, seen in one call however many they are."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prefect_campaign.launch.many import all_at_once
from prefect_campaign.launch.poller import Poller
from prefect_campaign.launch.queue.cancel import Canceller
from prefect_campaign.launch.queue.jobs import Scheduler, first_number, job_mark
from prefect_campaign.launch.queue.judge import Now, Patience, Report, asks_why, judge
from prefect_campaign.launch.queue.note import Note, read_note, remove_note, write_note
from prefect_campaign.launch.queue.notebook import Notebook
from prefect_campaign.launch.queue.place import Place, Trace, file_error, make_folders
from prefect_campaign.launch.queue.view import QueueView
from prefect_campaign.launch.script import STDERR_NAME, STDOUT_NAME
from prefect_campaign.model.clock import Clock, steady_clock, system_clock
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

AT_ONCE = 8
"""Submissions under way at a time: a scheduler takes them one by one, and its other users are waiting too."""

LOG_NAME = "scheduler.log"
"""What the scheduler itself says of a job, in its run dir."""
_LONGEST_LOG = 1 << 20
_RECORD_SECONDS = 5.0
"""How often records are looked for where that costs no call."""

log = logging.getLogger("prefect_campaign")


class QueueLauncher:
    """Hands attempts to one scheduler.

    Args:
        queue: its name in the ledger.
        scheduler: what is asked, and how answers are read.
        place: where that is done, and where run dirs are.
        max_jobs: how many jobs it may be handed at once.
        factor: how long an experiment takes there / on the reference host.
        poll_seconds: how old an answer of the scheduler may be.
        patience: how long silence is given the benefit of the doubt.
        clock: seconds since the epoch.
        steady: seconds of a clock that does not jump.
    """

    def __init__(
        self,
        queue: str,
        scheduler: Scheduler,
        place: Place,
        *,
        max_jobs: int,
        factor: float = 1.0,
        poll_seconds: float = 30.0,
        patience: Patience | None = None,
        clock: Clock = system_clock,
        steady: Clock = steady_clock,
    ) -> None:
        self.name = scheduler.kind
        self.slots = max_jobs
        self.poll_seconds = poll_seconds
        self._queue = queue
        self._scheduler = scheduler
        self._place = place
        self.checkpoints = place.checkpoints
        self._factor = factor
        self._patience = patience or Patience()
        self._answer_seconds = max(self._patience.submitted, self._patience.unlisted)
        self._missed: set[str] = set()
        self._clock = clock
        self._steady = steady
        self._view = QueueView(queue, scheduler, steady)
        self._canceller = Canceller(queue, scheduler, self._view, absent_seconds=self._patience.unlisted)
        self._handles: dict[str, Handle] = {}
        self._notebook = Notebook(queue, clock, steady)
        cheap = _RECORD_SECONDS if place.cheap else None
        self._poller = Poller(queue, self.observe, lambda: self.poll_seconds, record_seconds=cheap)
        self._turns = asyncio.Semaphore(AT_ONCE)

    @property
    def unsettled(self) -> bool:
        """Never: what is in doubt is on record in the notes, for the next process as well."""
        return False

    async def look(self) -> list[HostView]:
        """The queue; if its scheduler does not answer, that is its problem."""
        problem = await self._view.problem(self.poll_seconds)
        view = HostView(
            self._queue, self.slots, problem=problem, factor=self._factor, launcher=self.name, queue=True,
            seen_at=self._clock(),
        )  # fmt: skip
        return [view]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Hand one attempt over.

        Raises:
            Transient: it was not taken; it may be later.
            Refused: it was not taken, and never will be.
            Unknown: it was handed over before, or nobody knows whether it was taken.
        """
        async with self._turns:
            return await self._submit(spec)

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Hand many over, some of them at a time; each has its own result."""
        return await all_at_once(self.submit, specs)

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The job by its note, by its claim, or by its token in the scheduler's list.

        If there are two and none has the run dir, the one that runs stays, or the older one; others are cancelled.

        Raises:
            Unknown: it was handed over so recently that its absence says nothing.
            Transient: the scheduler, or the host that it is on, cannot be asked now.
        """
        if spec.token in self._handles:
            return self._handles[spec.token]
        note = await self._note(spec)
        if note is not None and note.job_id:
            return await self._handle(spec, note.job_id)
        trace = (await self._place.traces([spec]))[spec.token]
        if trace.unseen:
            raise Transient(f"{spec.token}: {trace.unseen}")
        if trace.job_id or (trace.over is not None and not asks_why(trace)):
            return await self._handle(spec, trace.job_id)
        listed = await self._scheduler.find(spec.token, await self._place.run_dir(spec))
        found = sorted(listed, key=lambda one: (one.status != "running", first_number(one.job_id)))
        live = [one.job_id for one in found if one.status != "ended"]
        if found and not live and trace.started_at is None:  # it may have begun and ended between the two looks
            trace = (await self._place.traces([spec]))[spec.token]
        if live or (found and trace.started_at is not None):  # an ended one that claimed nothing was never ours to see
            first, *rest = live or [found[0].job_id]
            if not self._scheduler.marks and (rest or trace.started_at is None):
                raise Unknown(
                    f"{spec.token}: {self._queue} lists {', '.join(live)} by that name, and nothing tells whose they "
                    "are; cancel by hand what is not wanted, and let lists show {mark} (see job_pattern)"
                )
            if rest:
                log.warning("%s: %s has it %d times; cancelling %s", spec.token, self._queue, 1 + len(rest), rest)
                await self._scheduler.cancel(dict.fromkeys(rest, spec.token))
            return await self._handle(spec, first)
        if note is not None and (age := self._notebook.asked_ago(note)) < self._answer_seconds:
            raise Unknown(f"{spec.token}: was handed to {self._queue} {age:.0f} s ago, which does not list it yet")
        if trace.over is not None:
            return await self._handle(spec, "")
        if trace.started_at is not None:
            raise Unknown(f"{spec.token}: its run dir is claimed, but {self._queue} lists no such job; look again")
        if note is not None and spec.token not in self._missed:
            self._missed.add(spec.token)
            raise Unknown(f"{spec.token}: {self._queue} does not list it; it will be looked for once more")
        self._missed.discard(spec.token)
        return None

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """The job's own record if there is one, else what its scheduler says, or said `poll_seconds` ago at most."""
        found, pairs = {}, {}
        for spec, handle in handles:
            if handle.host == self._queue:
                pairs[spec.token] = (spec, handle)
            else:
                found[spec.token] = Observation("unreachable", detail=f"was handed to {handle.host}")
        traces = await self._place.traces([spec for spec, _ in pairs.values()])
        open_ = [t for t in pairs if traces[t].over is None or asks_why(traces[t])]
        asked = {t: pairs[t][1].job_id for t in open_ if pairs[t][1].job_id}
        owners = {t: o for t, job_id in asked.items() if (o := self._other_owner(traces[t], job_id))}
        for token, job_id in (*asked.items(), *owners.items()):
            self._view.follow(token, job_id, _mark(*pairs[token]))
        notes = await self._notebook.read([spec for spec, _ in pairs.values()])
        doubtful = any(traces[t].over is not None or notes[t].over_since is not None for t in asked)
        age = min(self.poll_seconds, self._patience.unlisted) if doubtful else self.poll_seconds
        reports = await self._view.reports(asked, age) if asked else {}
        if owners:  # the job that has the run dir is the one that counts, as long as it is there
            theirs = await self._view.reports(owners, age)
            reports |= {t: r for t, r in theirs.items() if not r.absent or reports[t].absent}
        # A job that ended between the two looks has its record by now.
        ends = [t for t, r in reports.items() if r.absent or (r.entry and r.entry.status == "ended")]
        over = [pairs[t][0] for t in ends if traces[t].over is None]
        if over:
            again = await self._place.traces(over)
            traces |= {t: replace(one, notes=(*traces[t].notes, *one.notes)) for t, one in again.items()}
        after = {}
        for token, (spec, _) in pairs.items():
            report = reports.get(token, Report(absent=True))
            now = Now(self._clock(), self._steady())
            judged = judge(traces[token], report, notes[token], self._queue, now, self._patience)
            found[token], after[token] = judged
            if traces[token].over is not None and found[token].status in ("pending", "running"):
                await self._place.reopen(spec)
        await self._notebook.write([spec for spec, _ in pairs.values()], notes, after)
        for token in pairs:
            if found[token].status in ("exited", "gone"):
                self._forget(token)
        silent = [pair for token, pair in pairs.items() if found[token].status == "gone"]
        await asyncio.gather(*(self._keep_log(spec, handle) for spec, handle in silent))
        return found

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """Have the scheduler end the job, and wait until it says that it has.

        The time from TERM to KILL is the scheduler's own.

        Raises:
            Transient: it cannot be asked, or still has the job some time after it was told.
        """
        if handle.host != self._queue:
            raise Transient(f"{spec.token}: was handed to {handle.host}, not to {self._queue}")
        trace = (await self._place.traces([spec]))[spec.token]
        if handle.job_id and (trace.over is None or asks_why(trace)):
            owner = self._other_owner(trace, handle.job_id)
            both = [handle.job_id, *([owner] if owner else [])]
            for job_id in both:
                self._view.follow(spec.token, job_id, _mark(spec, handle))
            await asyncio.gather(*(self._canceller.end(spec.token, job_id, grace_seconds) for job_id in both))

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once the job is over; one poller looks after all jobs."""
        self._poller.follow(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Local paths of stdout and stderr."""
        run_dir = Path(spec.run_dir)
        return run_dir / STDOUT_NAME, run_dir / STDERR_NAME

    def close(self) -> None:
        """Stop watching; jobs go on."""
        self._poller.close()

    async def _submit(self, spec: AttemptSpec) -> Handle:
        self._scheduler.files(spec)  # a spec that can never run is refused before anything is made
        there = await self._place.there(spec)
        files = self._scheduler.files(there)
        await asyncio.to_thread(make_folders, spec)
        before = await self._note(spec)
        if before is not None:
            recently = self._notebook.asked_ago(before) < self._answer_seconds
            if before.job_id or recently:
                known = f"as {before.job_id}" if before.job_id else "a moment ago"
                raise Unknown(f"{spec.token}: was handed to {self._queue} {known}; look for that job first")
        await self._place.put(there, files)
        note = Note(spec.token, self._queue, self._clock())
        try:
            await asyncio.to_thread(write_note, spec, note)
        except OSError as error:
            raise file_error(spec, error) from error
        self._notebook.asked(note)
        crash_point("job_noted")
        try:
            job_id = await self._scheduler.submit(there)
        except (Transient, Refused):
            with suppress(OSError):  # then it only looks as if something might be on its way
                await asyncio.to_thread(remove_note, spec)
            self._notebook.forget(spec.token)
            raise
        crash_point("job_spawned")
        note = replace(note, job_id=job_id)
        self._notebook.put(note)
        with suppress(OSError):  # the ledger keeps the id as well
            await asyncio.to_thread(write_note, spec, note)
        return await self._handle(spec, job_id)

    def _other_owner(self, trace: Trace, job_id: str) -> str:
        """The job that claimed the run dir if it is not this one: the attempt was handed over twice."""
        owner = trace.job_id
        return owner if owner and not self._scheduler.same(owner, job_id) else ""

    async def _keep_log(self, spec: AttemptSpec, handle: Handle) -> None:
        """Keep what the scheduler has on a job that left no record: it may be all there is to say why."""
        path = Path(spec.run_dir) / LOG_NAME
        if not handle.job_id or path.exists():
            return
        with suppress(CampaignError, OSError):
            async with self._turns:
                text = await self._scheduler.log(handle.job_id, spec.token, _run_dir(spec, handle))
            if text:
                path.write_text(text[-_LONGEST_LOG:], errors="replace")

    async def _handle(self, spec: AttemptSpec, job_id: str) -> Handle:
        detail = {"run_dir": await self._place.run_dir(spec)}
        handle = Handle(launcher=self.name, host=self._queue, job_id=job_id, detail=detail)
        if job_id:
            self._handles[spec.token] = handle
        return handle

    async def _note(self, spec: AttemptSpec) -> Note | None:
        try:
            return await asyncio.to_thread(read_note, spec)
        except OSError as error:
            raise Transient(f"{spec.token}: {spec.run_dir}: {error.strerror or error}") from error

    def _forget(self, token: str) -> None:
        """Its job is over."""
        self._view.forget(token)
        self._notebook.forget(token)
        self._handles.pop(token, None)
        self._missed.discard(token)


def _run_dir(spec: AttemptSpec, handle: Handle) -> str:
    """The run dir there."""
    return str(handle.detail.get("run_dir") or spec.run_dir)


def _mark(spec: AttemptSpec, handle: Handle) -> str:
    return job_mark(_run_dir(spec, handle))
