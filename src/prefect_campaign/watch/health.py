"""How a batch is doing: counts by what became of its experiments, and whether failures are systemic."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.states import ExperimentState

Health = Literal["healthy", "degraded", "systemic"]

EXPECTED_PERCENT = 10
SYSTEMIC_PERCENT = 15
MINIMUM_SAMPLE = 5

_COUNT_OF_STATE = {
    ExperimentState.PLANNED: "pending",
    ExperimentState.READY: "pending",
    ExperimentState.QUEUED: "pending",
    ExperimentState.LAUNCHING: "pending",
    ExperimentState.RUNNING: "running",
    ExperimentState.DONE: "completed",
    ExperimentState.FAILED: "failed",
    ExperimentState.CANCELLED: "cancelled",
    ExperimentState.ON_HOLD: "on_hold",
    ExperimentState.SUPERSEDED: "superseded",
}
_COUNT_OF_SIGNATURE = {
    "timeout": "timeout",
    "cuda_oom": "out_of_memory",
    "host_oom": "out_of_memory",
    "dataloader_oom": "out_of_memory",
    "preempted": "preempted",
    "node_failure": "preempted",
}
_COUNTS = tuple(dict.fromkeys([*_COUNT_OF_STATE.values(), *_COUNT_OF_SIGNATURE.values()]))


def counts(views: Iterable[ExperimentView]) -> dict[str, int]:
    """How many experiments are pending, running, completed, ...; every experiment is counted once.

    A failed one is counted under ``timeout``, ``out_of_memory`` or ``preempted`` if that is why, else under
    ``failed``. All names are always there.
    """
    found = Counter(map(_count_of, views))
    return {name: found[name] for name in _COUNTS}


def batch_health(ended: Sequence[str | None], minimum: int = MINIMUM_SAMPLE) -> Health:
    """Judge a batch by its most frequent failure.

    Args:
        ended: for every ended attempt the signature of its failure, or None if it succeeded. Attempts that wait
            or run do not belong here: queueing is never a failure.
        minimum: ended attempts that are needed to call anything systemic.

    Returns:
        ``degraded`` if more than 10 % of the ended attempts failed alike; ``systemic`` from 15 % on, if these
        are at least two (one failure resembles no other) and the sample is large enough.
    """
    similar = max(Counter(s for s in ended if s is not None).values(), default=0)
    if similar >= 2 and len(ended) >= minimum and 100 * similar >= SYSTEMIC_PERCENT * len(ended):
        return "systemic"
    if 100 * similar > EXPECTED_PERCENT * len(ended):
        return "degraded"
    return "healthy"


def _count_of(view: ExperimentView) -> str:
    state = ExperimentState(view.state)
    if state is ExperimentState.FAILED:
        return _COUNT_OF_SIGNATURE.get(view.signature or "", "failed")
    return _COUNT_OF_STATE[state]
