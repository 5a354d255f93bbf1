"""The rule that a result passes or fails by, and the names of the ways to fail."""

from collections.abc import Iterable

from prefect_campaign.decide.compare import Baseline, finite, improvement, reaches
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Check, Objective
from prefect_campaign.model.states import ExperimentState

BELOW_MIN_DELTA = "delta below min_delta"
WITHIN_NOISE = "delta within noise"
WORSE = "worse than the baseline"
NOT_FINITE = "delta not finite"
BASELINE_FAILED = "baseline failed"
TARGET_MISSED = "target not reached"
NO_CANDIDATES = "no candidates"
SEVERAL = "several causes"


def value_cause(value: float, std: float, base: Baseline, objective: Objective, check: Check) -> str:
    """Why a finite `value` does not pass against `base`; empty if it does."""
    if base.kind == "failed":
        return BASELINE_FAILED
    if base.kind == "none":
        if not finite(objective.target):
            return ""
        gap = improvement(value, objective.target, objective.mode)
        return "" if gap is not None and gap >= 0 else TARGET_MISSED
    delta = improvement(value, base.value, objective.mode)
    return NOT_FINITE if delta is None else delta_cause(delta, std, objective, check)


def delta_cause(delta: float, std: float, objective: Objective, check: Check) -> str:
    """Why a delta does not pass; empty if it does."""
    if check.claim == "equality":
        return "" if reaches(delta, -max(objective.min_delta, objective.noise_floor)) else WORSE
    if not reaches(delta, objective.min_delta):
        return BELOW_MIN_DELTA
    if not delta > 2 * std or not reaches(delta, objective.noise_floor):
        return WITHIN_NOISE
    return ""


def why_no_result(view: ExperimentView) -> str:
    """Why the experiment has no result that counts, as a category: a signature where there is one."""
    if view.state == ExperimentState.DONE:
        return "non-finite result" if view.comparable else "not comparable"
    if view.state == ExperimentState.FAILED:
        return view.signature or "unknown"
    return view.state


def shared(causes: Iterable[str]) -> str:
    """The one cause that all have, else `SEVERAL`. Two unknown causes are not the same one."""
    different = set(causes)
    if len(different) == 1 and different != {"unknown"}:
        return different.pop()
    return SEVERAL
