"""The verdict on one stage of the pilot, from its experiments' results."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from prefect_campaign.decide.checks import id_list, judge_check, label_of
from prefect_campaign.decide.compare import Mode, best_baseline, better, improvement, is_baseline, result_of
from prefect_campaign.decide.pass_rule import why_no_result
from prefect_campaign.decide.verdicts import CheckVerdict, Failure, MetricMissing, Row, StageVerdict
from prefect_campaign.model.plan import PILOT, Plan, PlannedExperiment
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign, Check, Objective, Stage
from prefect_campaign.model.states import ExperimentState


def judge_stage(campaign: Campaign, plan: Plan, stage: Stage, views: Sequence[ExperimentView]) -> StageVerdict:
    """Judge every check of `stage` (the rule is in `checks.judge_check`).

    The stage passes when its core checks pass, nothing is on hold, and the objective's metric was reported.
    Where no check is marked core, all mandatory ones are (or all, if none is mandatory): a stage never
    passes for want of a core check.

    Args:
        campaign: the spec.
        plan: the iteration's plan; an experiment of it that has no view counts as not run.
        stage: one of ``plan.stages``.
        views: experiments of the campaign; those that are not in the stage's plan are ignored.
    """
    mine = _views_of(plan, stage, views)
    rows: list[Row] = []
    checks: list[CheckVerdict] = []
    for check, core in _with_core(stage.all_checks):
        verdict, its_rows = judge_check(campaign, stage.name, check, mine, core=core)
        checks.append(verdict)
        rows += its_rows
    judged = {r.exp_id for r in rows}
    rows += [_plain_row(campaign, stage.name, v, mine) for v in mine if v.exp_id not in judged]

    blocked = tuple(v.exp_id for v in mine if v.state == ExperimentState.ON_HOLD)
    missing = _metric_missing(campaign.objective, mine)
    failed_core = [c for c in checks if c.core and not c.passed]
    return StageVerdict(
        stage=stage.name,
        passed=not (failed_core or blocked or missing),
        reason=_reason(checks, failed_core, blocked, missing),
        checks=tuple(checks),
        rows=tuple(rows),
        failures=tuple(_failure(stage.name, v) for v in mine if result_of(v) is None),
        blocked=blocked,
        metric_missing=missing,
        later=_later(plan, stage),
        best=_best(rows, campaign.objective.mode),
    )


def _with_core(checks: Sequence[Check]) -> list[tuple[Check, bool]]:
    """Each check, and whether the stage depends on it."""
    if any(c.core for c in checks):
        return [(c, c.core) for c in checks]
    if any(c.mandatory for c in checks):
        return [(c, c.mandatory) for c in checks]
    return [(c, True) for c in checks]


def _views_of(plan: Plan, stage: Stage, views: Sequence[ExperimentView]) -> list[ExperimentView]:
    """One view per planned experiment of the stage, in plan order."""
    known = {v.exp_id: v for v in views}
    found = []
    for planned in plan.of_stage(stage.name):
        view = known.get(planned.exp_id)
        if view is None:
            found.append(_not_run(planned))
        else:
            # Plan first: an Optuna trial knows more parameters once it has been asked for.
            found.append(replace(view, params={**planned.params, **view.params}))
    return found


def _not_run(planned: PlannedExperiment) -> ExperimentView:
    return ExperimentView(
        exp_id=planned.exp_id,
        phase=planned.phase,
        stage=planned.stage,
        stage_index=planned.stage_index,
        group=planned.group,
        method=planned.method,
        dataset=planned.dataset,
        seed=planned.seed,
        params=planned.params,
        state=ExperimentState.PLANNED,
        reason="never started",
    )


def _plain_row(campaign: Campaign, stage: str, view: ExperimentView, views: Sequence[ExperimentView]) -> Row:
    """A row for what no check judges: baselines, and other groups against the best baseline."""
    value = result_of(view)
    baseline = None
    if not is_baseline(view.group):
        baseline = best_baseline(campaign.objective, views, view.dataset).value
    return Row(
        stage=stage,
        exp_id=view.exp_id,
        check="",
        dimension=view.group,
        dataset=view.dataset,
        method=view.method,
        configuration=label_of(campaign, view),
        value=value,
        baseline=baseline,
        delta=improvement(value, baseline, campaign.objective.mode),
        passed=None,
    )


def _failure(stage: str, view: ExperimentView) -> Failure:
    reason = view.reason
    if view.state == ExperimentState.DONE:
        changes = ", ".join(view.changes) or "a fix changed what it measures"
        reason = "the objective is missing or not finite" if view.comparable else changes
    return Failure(stage, view.exp_id, str(view.state), why_no_result(view), reason)


def _metric_missing(objective: Objective, views: Sequence[ExperimentView]) -> MetricMissing | None:
    """Set when every experiment that ended did so as ``no_result`` and none knows the metric's name."""
    ended = [v for v in views if v.state in (ExperimentState.DONE, ExperimentState.FAILED, ExperimentState.ON_HOLD)]
    if not ended or any(v.state == ExperimentState.DONE or v.signature != "no_result" for v in ended):
        return None
    seen = sorted({name for v in views for name in v.metrics})
    if objective.metric in seen:
        return None
    close = difflib.get_close_matches(objective.metric, seen, n=3, cutoff=0.5)
    return MetricMissing(objective.metric, tuple(seen), tuple(close))


def _reason(
    checks: Sequence[CheckVerdict],
    failed_core: Sequence[CheckVerdict],
    blocked: Sequence[str],
    missing: MetricMissing | None,
) -> str:
    if missing is not None:
        return missing.message
    if blocked:
        return f"on hold, to be decided first: {id_list(blocked)}"
    if failed_core:
        return "; ".join(f"core check {c.name} {c.reason}" for c in failed_core)
    passed = sum(c.passed for c in checks)
    core = "; ".join(f"core check {c.name} {c.reason}" for c in checks if c.core)
    return f"{passed} of {len(checks)} checks passed; {core}"


def _later(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Names of the pilot stages after this one."""
    pilots = list(dict.fromkeys(e.stage for e in plan.experiments if e.phase == PILOT))
    return tuple(pilots[pilots.index(stage.name) + 1 :]) if stage.name in pilots else ()


def _best(rows: Sequence[Row], mode: Mode) -> Row | None:
    judged = [r for r in rows if r.passed is not None and r.value is not None]
    with_delta = [r for r in judged if r.delta is not None]
    best: Row | None = None
    for row in with_delta or judged:
        if best is None:
            best = row
        elif with_delta:
            best = row if better(row.delta, best.delta, "max") else best
        else:
            best = row if better(row.value, best.value, mode) else best
    return best
