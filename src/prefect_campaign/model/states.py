"""States of experiments and attempts, and the one table of allowed transitions."""

from enum import StrEnum


class ExperimentState(StrEnum):
    """Where an experiment is. `unreachable` is an observation, never a state."""

    PLANNED = "planned"
    READY = "ready"
    QUEUED = "queued"
    LAUNCHING = "launching"
    RUNNING = "running"
    ON_HOLD = "on_hold"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def final(self) -> bool:
        """Whether nothing that is observed later may change it."""
        return self in FINAL


class AttemptState(StrEnum):
    """Where one try at an experiment is; a final one is never rewritten."""

    LAUNCHING = "launching"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Whether the attempt is over."""
        return self not in (AttemptState.LAUNCHING, AttemptState.RUNNING)


_E = ExperimentState

FINAL = frozenset({_E.DONE, _E.FAILED, _E.CANCELLED, _E.SUPERSEDED})

TRANSITIONS: dict[ExperimentState, frozenset[ExperimentState]] = {
    _E.PLANNED: frozenset({_E.READY, _E.CANCELLED, _E.SUPERSEDED}),
    _E.READY: frozenset({_E.QUEUED, _E.LAUNCHING, _E.CANCELLED, _E.SUPERSEDED, _E.ON_HOLD}),
    # queued is also where a failed attempt sends its experiment while the next one waits for a place
    _E.QUEUED: frozenset({_E.LAUNCHING, _E.CANCELLED, _E.SUPERSEDED, _E.ON_HOLD, _E.FAILED}),
    _E.LAUNCHING: frozenset({_E.RUNNING, _E.QUEUED, _E.DONE, _E.FAILED, _E.CANCELLED, _E.ON_HOLD}),
    _E.RUNNING: frozenset({_E.QUEUED, _E.DONE, _E.FAILED, _E.CANCELLED, _E.ON_HOLD}),
    _E.ON_HOLD: frozenset({_E.QUEUED, _E.LAUNCHING, _E.RUNNING, _E.DONE, _E.FAILED, _E.CANCELLED, _E.SUPERSEDED}),
    _E.DONE: frozenset(),
    _E.FAILED: frozenset(),
    _E.CANCELLED: frozenset(),
    _E.SUPERSEDED: frozenset(),
}


def allowed(old: ExperimentState, new: ExperimentState) -> bool:
    """Whether the table has the transition `old` -> `new`."""
    return new in TRANSITIONS[old]


class CampaignStatus(StrEnum):
    """Where the campaign as a whole is."""

    OPEN = "open"
    AT_GATE = "at_gate"
    PIVOTED = "pivoted"
    COMPLETED = "completed"
    KILLED = "killed"

    @property
    def ended(self) -> bool:
        """Whether this round is over; only a new round starts anything again."""
        return self in (CampaignStatus.COMPLETED, CampaignStatus.KILLED)
