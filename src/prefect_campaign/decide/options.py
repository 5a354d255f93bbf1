"""What speaks for and against each answer at the gate: CONTINUE, PIVOT, KILL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefect_campaign.decide.compare import count, number
from prefect_campaign.decide.estimate import CostEstimate
from prefect_campaign.decide.iterate import MAX_ITERATIONS
from prefect_campaign.decide.pilot import PilotDecision, Recommendation
from prefect_campaign.decide.verdicts import CheckVerdict, StageVerdict
from prefect_campaign.model.spec import Campaign

Answer = Literal["CONTINUE", "PIVOT", "KILL"]

ANSWER: dict[Recommendation, Answer] = {
    Recommendation.PROCEED: "CONTINUE",
    Recommendation.ITERATE: "PIVOT",
    Recommendation.ROLLBACK: "KILL",
}

_SHOWN_CHECKS = 5


@dataclass(frozen=True)
class Option:
    """One answer, and what the numbers say about it."""

    answer: Answer
    meaning: str
    speaks_for: tuple[str, ...]
    against: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """What a person needs in order to decide at the gate."""

    background: str
    options: tuple[Option, ...]
    recommended: Answer | None
    """None while nothing can be decided."""
    reason: str


def gate_options(
    campaign: Campaign,
    verdicts: Sequence[StageVerdict],
    decision: PilotDecision,
    cost: CostEstimate,
    *,
    dirty: bool,
    iteration: int,
) -> Options:
    """Lay out the three answers, from the computed verdicts alone.

    Args:
        campaign: the spec.
        verdicts: of the stages that ran, in order.
        decision: what `pilot.decide_pilot` found.
        cost: what `estimate.estimate_full_hours` found.
        dirty: whether the tree has local changes.
        iteration: number of the iteration that is judged; the first is 1.
    """
    asked = _hours(campaign, cost.total_hours)
    runs = sum(len({r.exp_id for r in v.rows}) for v in verdicts)
    stages = ", ".join(f"{v.stage} ({'passed' if v.passed else 'failed'})" for v in verdicts) or "none"
    question = f"{campaign.question.strip()} " if campaign.question.strip() else ""
    background = (
        f"{question}The pilot judged {campaign.objective.metric} ({campaign.objective.mode}) "
        f"on {count(runs, 'experiment')}; stages: {stages}. {len(decision.passed)} of "
        f"{len(decision.passed) + len(decision.failed)} checks passed."
    )
    go_on = Option(
        "CONTINUE",
        f"start the full phase: {count(cost.experiments, 'experiment')} on {count(cost.datasets, 'dataset')}, {asked}",
        tuple(_passed(c) for c in decision.passed[:_SHOWN_CHECKS]),
        (f"it costs {asked}{_money(cost)}", *_doubts(campaign, verdicts, decision, cost, dirty=dirty)),
    )
    pivot = Option(
        "PIVOT",
        f"change the spec and pilot again, as iteration {iteration + 1} of at most {MAX_ITERATIONS}",
        tuple(_reasons_to_change(verdicts, decision)),
        tuple(_reasons_to_keep(campaign, decision, cost, iteration)),
    )
    kill = Option(
        "KILL",
        "stop here: archive the round and write down its lessons",
        (*(_failed(c) for c in decision.failed if c.core), f"it saves {asked}{_money(cost)}"),
        tuple(_reasons_to_live(campaign, decision, cost)),
    )
    recommended = ANSWER[decision.recommendation] if decision.recommendation else None
    return Options(background, (go_on, pivot, kill), recommended, decision.reason)


def _doubts(
    campaign: Campaign,
    verdicts: Sequence[StageVerdict],
    decision: PilotDecision,
    cost: CostEstimate,
    *,
    dirty: bool,
) -> list[str]:
    """What speaks against the full phase besides its cost."""
    found = [_failed(c) for c in decision.failed[:_SHOWN_CHECKS]]
    judged = [c for v in verdicts for check in v.checks for c in check.cells if c.stats.mean is not None]
    if decision.blocked:
        found.append(f"{count(len(decision.blocked), 'experiment')} on hold: to be decided first")
    if decision.not_run:
        found.append(f"pilot stages that did not run: {', '.join(decision.not_run)}")
    if any(not c.stats.std_known for c in judged):
        found.append("some results rest on one seed, so that their noise is unknown")
    if any(c.baseline.kind == "none" for c in judged):
        found.append("some results have no baseline to compare with")
    limit = campaign.policy.budget.hours
    if limit is not None and cost.total_hours is not None and cost.used_hours + cost.total_hours > limit:
        found.append(f"with the hours used it exceeds the budget of {number(limit)} h")
    if dirty:
        so = "the tree has local changes, so no commit would say what the results come from"
        then = "policy.allow_dirty lets it start all the same" if campaign.policy.allow_dirty else "commit them first"
        found.append(f"{so}: {then}")
    return found


def _reasons_to_change(verdicts: Sequence[StageVerdict], decision: PilotDecision) -> list[str]:
    found = [v.metric_missing.message for v in verdicts if v.metric_missing is not None]
    if decision.shared_cause:
        found.append(f"all failures share one cause, {decision.shared_cause}: one change may cure them")
    found += [f"{c.name}: if this fails it means {c.if_fails}" for c in decision.failed if c.if_fails]
    if decision.passed and decision.failed:
        found.append(f"{count(len(decision.passed), 'check')} passed: there is something to build on")
    return found


def _reasons_to_keep(campaign: Campaign, decision: PilotDecision, cost: CostEstimate, iteration: int) -> list[str]:
    found = []
    if iteration >= MAX_ITERATIONS:
        found.append(f"this was iteration {iteration} of at most {MAX_ITERATIONS}")
    found.append(f"another pilot takes about what was used so far, {_hours(campaign, cost.used_hours)}")
    if not decision.failed:
        found.append("no check failed that a change would cure")
    elif decision.shared_cause is None:
        found.append("the failures have no common cause that one change would cure")
    return found


def _reasons_to_live(campaign: Campaign, decision: PilotDecision, cost: CostEstimate) -> list[str]:
    found = [_passed(c) for c in decision.passed if c.core]
    found.append(f"the {_hours(campaign, cost.used_hours)} used so far bring lessons only")
    return found


def _passed(check: CheckVerdict) -> str:
    gain = f", mean delta {number(check.delta, sign=True)}" if check.delta is not None else ""
    return f"{check.name} ({check.dimension}) passed in stage {check.stage}{gain}"


def _failed(check: CheckVerdict) -> str:
    core = "core check " if check.core else ""
    return f"{core}{check.name} ({check.dimension}) failed in stage {check.stage}: {check.cause}"


def _hours(campaign: Campaign, hours: float | None) -> str:
    unit = "GPU h" if campaign.resources.gpus else "slot h"
    return f"{number(hours)} {unit}" if hours is not None else f"an unknown number of {unit}"


def _money(cost: CostEstimate) -> str:
    return f" ({cost.price:.2f} {cost.currency})" if cost.price is not None else ""
