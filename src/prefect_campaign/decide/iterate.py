"""Whether another iteration is worth it: the rules after a PIVOT and for automatic iteration."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_campaign.decide.compare import Mode, better, finite, improvement, number, reaches

MAX_ITERATIONS = 3
MIN_GAIN = 0.01
PATIENCE = 3


@dataclass(frozen=True)
class IterationVerdict:
    """Whether another iteration may start."""

    allowed: bool
    advice: str
    """One or two sentences for people."""
    overridable: bool = False
    """Whether the user may start it all the same, by saying so."""


@dataclass(frozen=True)
class StopVerdict:
    """Whether to stop iterating."""

    stop: bool
    reason: str = ""
    advice: str = ""
    """What to try differently; empty if nothing stands out."""
    without_improvement: int = 0
    """Iterations since the best value."""


def after_pivot(
    iteration: int,
    gains: Sequence[float | None],
    limit: int = MAX_ITERATIONS,
    min_gain: float = MIN_GAIN,
) -> IterationVerdict:
    """Whether a PIVOT may start another iteration: at most `limit`, and only while they gain something.

    Args:
        iteration: number of the iteration that has just been judged; the first is 1.
        gains: what each iteration so far gained on the best before it, in metric units, latest last; None or
            not finite where it had no result. Only the latest counts, from the second iteration on.
        limit: iterations in all.
        min_gain: a gain below this (0.01 = 1 %) speaks for giving up.
    """
    if iteration >= limit:
        return IterationVerdict(
            False, f"This was iteration {iteration} of at most {limit}: roll back, and keep the lessons."
        )
    following = f"Iteration {iteration + 1} of at most {limit} may start."
    if iteration < 2:
        return IterationVerdict(True, following)
    gain = gains[-1] if gains else None
    if gain is None or not finite(gain) or not reaches(gain, min_gain):
        got = f"gained {number(gain)}" if gain is not None and finite(gain) else "had no result to compare"
        text = f"Iteration {iteration} {got}, less than {number(min_gain)}: roll back, unless you say otherwise."
        return IterationVerdict(False, text, overridable=True)
    return IterationVerdict(True, f"Iteration {iteration} gained {number(gain)}. {following}")


def should_stop(
    best_values: Sequence[float | None],
    target: float | None,
    mode: Mode = "max",
    patience: int = PATIENCE,
) -> StopVerdict:
    """Whether iterating should end: the target is reached, or `patience` iterations brought no improvement.

    Args:
        best_values: the best value of each iteration, in order; missing or non-finite ones improve nothing.
        target: good enough, in metric units; None if there is no such value.
        mode: direction of the metric.
        patience: iterations without improvement that end it; one before that, the advice is to go back to
            the best and try something orthogonal.
    """
    best: float | None = None
    at = since = 0
    for index, value in enumerate(best_values, start=1):
        if better(value, best, mode):
            best, at, since = value, index, 0
        else:
            since += 1
    gap = improvement(best, target, mode)
    if gap is not None and gap >= 0:
        text = f"target {number(target)} reached: {number(best)} in iteration {at}"
        return StopVerdict(True, text, without_improvement=since)
    where = f"the best, iteration {at} ({number(best)})" if at else "the start"
    advice = ""
    if since >= max(patience - 1, 1):
        advice = f"go back to {where} and try something orthogonal"
    if since >= patience:
        return StopVerdict(True, f"{since} iterations without improvement", advice, since)
    return StopVerdict(False, "", advice, since)
