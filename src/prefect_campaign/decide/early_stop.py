"""Early stop in the full phase: which waiting experiments are not worth their hours."""

from collections import defaultdict
from collections.abc import Sequence

from prefect_campaign.decide.checks import id_list
from prefect_campaign.decide.compare import best_baseline, improvement, is_baseline, number, reaches, result_of
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import FINAL, ExperimentState

ENOUGH_MAIN = 1
ENOUGH_OTHERS = 2

_PENDING = frozenset({ExperimentState.PLANNED, ExperimentState.READY, ExperimentState.QUEUED})


def groups_to_stop(campaign: Campaign, views: Sequence[ExperimentView]) -> dict[str, str]:
    """Find the pending experiments of the full phase that can be cancelled.

    A group here is one experiment group and one method. Once enough of its members have a result (1 in group
    main, 2 in others), and every one of these is more than `Policy.early_stop_threshold` points (1/100 of the
    metric's unit) worse than the best baseline on its dataset, the pending members are not worth running.
    Baselines are never stopped. Nothing is stopped where a baseline is unknown or still has runs to finish:
    only complete evidence cancels.

    Args:
        campaign: the spec.
        views: experiments of the campaign; only those of the full phase are looked at.

    Returns:
        exp_id of each pending experiment to cancel -> the reason, one line.
    """
    full = [v for v in views if v.phase == FULL]
    groups: dict[tuple[str, str | None], list[ExperimentView]] = defaultdict(list)
    for view in full:
        if not is_baseline(view.group):
            groups[view.group, view.method].append(view)
    stop: dict[str, str] = {}
    for (group, _), members in groups.items():
        pending = [v for v in members if v.state in _PENDING]
        counted = [v for v in members if result_of(v) is not None]
        enough = ENOUGH_MAIN if group == "main" else ENOUGH_OTHERS
        if not pending or len(counted) < enough:
            continue
        shortfalls = [_shortfall(campaign, v, full) for v in counted]
        if all(shortfalls):
            evidence = "; ".join(t for t in shortfalls[:2] if t)
            more = f" (all {len(counted)} finished: {id_list([v.exp_id for v in counted])})"
            stop |= {v.exp_id: f"early stop: {evidence}{more if len(counted) > 2 else ''}" for v in pending}
    return stop


def _shortfall(campaign: Campaign, view: ExperimentView, views: Sequence[ExperimentView]) -> str | None:
    """How far `view` is below the baseline on its dataset; None if it is not, or if that is not known yet."""
    rivals = [v for v in views if is_baseline(v.group) and v.dataset == view.dataset]
    if any(v.state not in FINAL for v in rivals):
        return None
    baseline = best_baseline(campaign.objective, rivals, view.dataset)
    delta = improvement(result_of(view), baseline.value, campaign.objective.mode)
    points = campaign.policy.early_stop_threshold
    # At the threshold it goes on; `reaches` keeps rounding from tipping the balance.
    if delta is None or reaches(delta, -points / 100):
        return None
    return (
        f"{view.exp_id} has {number(view.objective_value)}, {number(-delta)} worse than the baseline "
        f"{number(baseline.value)} ({baseline.label}), threshold {number(points)} points"
    )
