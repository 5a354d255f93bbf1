"""The pilot's outcome: PROCEED, ITERATE or ROLLBACK, computed from the stage verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prefect_campaign.decide.checks import id_list
from prefect_campaign.decide.compare import number
from prefect_campaign.decide.pass_rule import SEVERAL, shared
from prefect_campaign.decide.verdicts import CheckVerdict, Row, StageVerdict


class Recommendation(StrEnum):
    """What the numbers speak for; a person decides."""

    PROCEED = "PROCEED"
    ITERATE = "ITERATE"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True)
class PilotDecision:
    """The recommendation and what it rests on."""

    recommendation: Recommendation | None
    """None: nothing can be decided yet, because of `blocked` or because nothing was measured (see `reason`)."""
    reason: str
    """One paragraph with exp_ids and numbers."""
    blocked: tuple[str, ...] = ()
    """Experiments on hold: retry, accept partial or cancel them first."""
    passed: tuple[CheckVerdict, ...] = ()
    failed: tuple[CheckVerdict, ...] = ()
    shared_cause: str | None = None
    """The one cause of all failed checks, if they have one."""
    not_run: tuple[str, ...] = ()
    """Pilot stages that did not run."""
    best: Row | None = None
    """Best candidate of the furthest stage that has one."""


def decide_pilot(verdicts: Sequence[StageVerdict]) -> PilotDecision:
    """Recommend what to do after the pilot, by the first rule that matches.

    1. a core check failed in any stage -> ROLLBACK;
    2. all core checks passed, and at least half of the other mandatory ones -> PROCEED;
    3. all failed checks share one cause (the same signature of their runs, or the same way in which the
       numbers fell short) -> ITERATE;
    4. else -> ROLLBACK.

    Nothing is recommended while an experiment is on hold, without a verdict, or when a stage never reported
    the objective's metric: then there are no numbers to decide from.

    Args:
        verdicts: of the stages that ran, in order.
    """
    checks = [c for v in verdicts for c in v.checks]
    passed = tuple(c for c in checks if c.passed)
    failed = tuple(c for c in checks if not c.passed)
    blocked = tuple(e for v in verdicts for e in v.blocked)
    cause = shared(c.cause for c in failed)
    one_cause = cause if failed and cause != SEVERAL else None
    recommendation, reason = _first_match(verdicts, passed, failed, blocked, one_cause)
    not_run = verdicts[-1].later if verdicts else ()
    if not_run and verdicts:
        because = f" because stage {verdicts[-1].stage} failed" if not verdicts[-1].passed else ""
        reason += f" Not run{because}: {', '.join(not_run)}."
    return PilotDecision(
        recommendation=recommendation,
        reason=" ".join(reason.split()),
        blocked=blocked,
        passed=passed,
        failed=failed,
        shared_cause=one_cause,
        not_run=not_run,
        best=next((v.best for v in reversed(verdicts) if v.best is not None), None),
    )


def _first_match(
    verdicts: Sequence[StageVerdict],
    passed: Sequence[CheckVerdict],
    failed: Sequence[CheckVerdict],
    blocked: Sequence[str],
    one_cause: str | None,
) -> tuple[Recommendation | None, str]:
    if not verdicts:
        return None, "No pilot stage has been judged yet."
    if blocked:
        plural = "experiments are" if len(blocked) > 1 else "experiment is"
        held = f"{len(blocked)} {plural} on hold ({id_list(blocked, 10)})"
        return None, f"Not decided: {held}; decide first: retry, accept partial, or cancel."
    for verdict in verdicts:
        if verdict.metric_missing is not None:
            return None, f"Not decided, stage {verdict.stage}: {verdict.metric_missing.message}."
    core_failed = [c for c in failed if c.core]
    if core_failed:
        return Recommendation.ROLLBACK, f"The core does not hold: {_tell(core_failed)}.{_also(passed)}"
    others = [c for c in (*passed, *failed) if c.mandatory and not c.core]
    good = sum(c.passed for c in others)
    core = f"The core holds: {_tell([c for c in passed if c.core])}."
    if 2 * good >= len(others):
        rest = f" {good} of {len(others)} other mandatory checks passed." if others else ""
        rest += f" Failed: {_tell(failed)}." if failed else ""
        return Recommendation.PROCEED, f"{core}{rest}"
    tally = f"only {good} of {len(others)} other mandatory checks passed"
    if one_cause:
        text = f"{core} But {tally}, and all failures share one cause, {one_cause}: {_tell(failed)}."
        return Recommendation.ITERATE, text
    return Recommendation.ROLLBACK, f"{core} But {tally}, for different reasons: {_tell(failed)}."


def _tell(checks: Sequence[CheckVerdict]) -> str:
    return "; ".join(f"{c.name} in stage {c.stage} {c.reason}" for c in checks)


def _also(passed: Sequence[CheckVerdict]) -> str:
    if not passed:
        return ""
    named = ", ".join(
        f"{c.name} in stage {c.stage}" + (f" ({number(c.delta, sign=True)})" if c.delta is not None else "")
        for c in passed
    )
    return f" Passed: {named}."
