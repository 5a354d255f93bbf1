"""What may be said of one job, from its run dir and from what its scheduler said of it (pure)."""

import signal
from dataclasses import dataclass, replace
from typing import NamedTuple

from prefect_campaign.launch.queue.jobs import Entry
from prefect_campaign.launch.queue.note import Note
from prefect_campaign.launch.queue.place import Trace
from prefect_campaign.model.records import Observation

_FROM_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU})
_REASONS = frozenset({"BOOT_FAIL", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"})


@dataclass(frozen=True)
class Patience:
    """How long silence is given the benefit of the doubt, in seconds."""

    unlisted: float = 60.0
    """A job that its scheduler does not list is not gone before it was missing for so long."""
    record: float = 30.0
    """The record of a job that is over may come so much later: shared file systems lag."""
    submitted: float = 240.0
    """A job that was handed over without an answer may come into the list so much later; never before `unlisted`."""


class Now(NamedTuple):
    """The present moment. Ages that decide are by the steady clock: the other one may jump."""

    wall: float
    """Seconds since the epoch."""
    steady: float


@dataclass(frozen=True)
class Report:
    """What the scheduler said of one job."""

    entry: Entry | None = None
    absent: bool = False
    """Whether it said that it has no such job."""
    why: str = ""
    """Why it said nothing of it."""
    age: float = 0.0
    """How many seconds ago it said so."""


def judge(
    trace: Trace, report: Report, note: Note, queue: str, now: Now, patience: Patience
) -> tuple[Observation, Note]:
    """The observation, and the note with what must be remembered.

    Silence changes nothing: only the job's own record, or the scheduler's own word and some patience, end a job. That
    it has no such job is believed once two of its answers say so, some time apart.
    """
    entry = report.entry
    if trace.over is not None:
        return _explained(trace, trace.over, report, note, queue, now, patience)
    if trace.unseen:
        return _seen(trace, "unreachable", trace.unseen), note
    if entry is None and not report.absent:
        return _seen(trace, "unreachable", report.why or f"{queue} said nothing of it"), note
    if entry is not None and entry.status != "ended":
        if entry.status == "unclear":
            return _seen(trace, "unreachable", entry.detail, entry=entry), replace(
                note, over_since=None, over_steady=None
            )
        fresh = _with_sleep(trace, entry, note, now.wall)
        return replace(_seen(trace, entry.status, entry.detail, entry=entry), quiet_since=_quiet(trace, fresh)), fresh
    if entry is not None:
        over, waited = _over_for(note, now, 0.0)
        if waited < patience.record:
            said = f"{queue} says it is over ({entry.detail}); waiting for its record"
            return _seen(trace, "running", said, entry=replace(entry, state=None)), over
        return _seen(trace, "gone", "it left no exit record", entry.detail, entry=entry), over
    missing, over = _is_missing(report, note, now, patience)
    if not missing:
        if now.wall - note.asked_at < patience.unlisted and trace.started_at is None:
            return _seen(trace, "pending", f"{queue} has taken it, but does not list it yet"), over
        return _seen(trace, "unreachable", f"{queue} does not list it any more; it will be looked for again"), over
    return _seen(trace, "gone", f"{queue} does not know it any more, and it left no exit record"), over


def asks_why(trace: Trace) -> bool:
    """Whether somebody ended the job, so that the scheduler may know who and why, or may run it again.

    A job that is told to end may save its state and exit with any code.
    """
    return trace.over is not None and (trace.stopped or trace.over.signal in _FROM_OUTSIDE)


def slept(note: Note, *, asleep: bool, now: float) -> Note:
    """The note of a job that cannot write now, or can, again or still."""
    woke = now if note.asleep and not asleep else note.awake_since
    return replace(note, asleep=asleep, awake_since=woke)


def _explained(
    trace: Trace, over: Observation, report: Report, note: Note, queue: str, now: Now, patience: Patience
) -> tuple[Observation, Note]:
    """How it ended by its own record; if it was stopped, with the scheduler's word on that.

    A scheduler that stops a job to run it again later (preemption) still has it. Then the record is not the last word,
    and without the scheduler nobody can tell.
    """
    entry = report.entry
    if not asks_why(trace):
        return replace(over, detail="; ".join(trace.notes)), note
    if report.absent:
        missing, after = _is_missing(report, note, now, patience)
        if missing:
            return replace(over, detail="; ".join(trace.notes)), after
        said = f"it was stopped, and {queue} does not list it; it will be looked for again"
        return _seen(trace, "unreachable", said), after
    if entry is None or entry.status == "unclear":
        said = entry.detail if entry else report.why
        return _seen(trace, "unreachable", f"it was stopped, and {queue} must say whether for good: {said}"), note
    if entry.status != "ended":
        said = f"it was stopped, but {queue} still has it"
        return _seen(trace, entry.status, said, entry.detail, entry=entry), _with_sleep(trace, entry, note, now.wall)
    known = entry.state if entry.state in _REASONS else None
    detail = "; ".join((*trace.notes, *([entry.detail] if known else [])))
    return replace(
        over, detail=detail, scheduler_state=known, oom_killed=entry.oom_killed or None, node=entry.node
    ), note


def _is_missing(report: Report, note: Note, now: Now, patience: Patience) -> tuple[bool, Note]:
    """Whether its scheduler has said for long enough that it has no such job, by more than one answer."""
    over, waited = _over_for(note, now, report.age)
    return note.over_since is not None and waited >= patience.unlisted, over


def _over_for(note: Note, now: Now, age: float) -> tuple[Note, float]:
    """Since when it seems to be over, and for how many seconds it had when that was said, `age` seconds ago."""
    if note.over_since is None or note.over_steady is None:
        note = replace(note, over_since=now.wall - age, over_steady=now.steady - age)
    return note, now.steady - age - (note.over_steady or 0.0)


def _with_sleep(trace: Trace, entry: Entry, note: Note, now: float) -> Note:
    """The note of a job that is listed as alive: what waits or is suspended after it has run is silent for no fault."""
    asleep = entry.suspended or (entry.status == "pending" and trace.started_at is not None)
    return replace(slept(note, asleep=asleep, now=now), over_since=None, over_steady=None)


def _quiet(trace: Trace, note: Note) -> float | None:
    """Since when a job that runs has been silent; None if it could not write, or if that is not known."""
    if note.asleep or trace.started_at is None or trace.quiet_since is None:
        return None
    return max(trace.quiet_since, note.awake_since or 0.0)


def _seen(trace: Trace, status: str, *details: str, entry: Entry | None = None) -> Observation:
    return Observation(
        status,  # type: ignore[arg-type]
        started_at=trace.started_at,
        detail="; ".join(filter(None, (*trace.notes, *details))),
        scheduler_state=entry.state if entry else None,
        oom_killed=(entry is not None and status == "gone" and entry.oom_killed) or None,
        node=entry.node if entry else "",
        stuck=entry is not None and entry.stuck and status == "pending",
    )
