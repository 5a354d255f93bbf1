"""Small campaigns with results, for the tests of decisions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.decide.verdicts import CheckVerdict, StageVerdict
from prefect_campaign.model.plan import Plan, PlannedExperiment, make_plan
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign, Objective, Stage
from prefect_campaign.model.sweep import Sweep

Result = float | None | Mapping[str, Any]


def campaign(
    *,
    methods: tuple[str, ...] = ("ours", "tent"),
    datasets: tuple[str, ...] = ("c10",),
    seeds: int = 3,
    baselines: tuple[str, ...] = ("tent",),
    pilot: list[Stage] | None = None,
    objective: Mapping[str, Any] | None = None,
    **more: Any,
) -> Campaign:
    """Method x dataset x seed, with `baselines` in group baseline."""
    args = {"epochs": 10, **more.pop("args", {})}
    return Campaign(
        name="demo",
        command="train --method {method} --data {dataset} --seed {seed} --epochs {epochs}",
        args=args,
        sweep=Sweep.grid(method=methods, dataset=datasets, seed=range(seeds)),
        objective=Objective(**{"metric": "final/accuracy", **(objective or {})}),
        groups={"baseline": {"method": list(baselines)}} if baselines else {},
        pilot=pilot or [Stage("minimal", args={"epochs": 2})],
        **more,
    )


def view(planned: PlannedExperiment, result: Result = None, **more: Any) -> ExperimentView:
    """A finished experiment with that value; a mapping sets any fields instead."""
    fields: dict[str, Any] = {
        "exp_id": planned.exp_id,
        "phase": planned.phase,
        "stage": planned.stage,
        "stage_index": planned.stage_index,
        "group": planned.group,
        "method": planned.method,
        "dataset": planned.dataset,
        "seed": planned.seed,
        "params": planned.params,
        "state": "done",
        "attempt": 1,
        "busy_seconds": 600.0,
    }
    if isinstance(result, Mapping):
        fields |= result
    else:
        fields["objective_value"] = result
        fields["metrics"] = {} if result is None else {"final/accuracy": result}
    return ExperimentView(**(fields | more))


def failed(signature: str = "cuda_oom", **more: Any) -> dict[str, Any]:
    """Fields of an experiment that failed."""
    return {"state": "failed", "signature": signature, "reason": f"died of {signature}", **more}


def run(
    spec: Campaign,
    results: Mapping[Any, Any],
    stage: str = "minimal",
) -> tuple[Plan, Stage, list[ExperimentView]]:
    """The plan, one of its stages, and a view of each of the stage's experiments.

    Args:
        spec: the campaign.
        results: method, or (method, dataset) -> one result for all seeds, or a list with one per seed.
        stage: its name.
    """
    plan = make_plan(spec)
    views = []
    for planned in plan.of_stage(stage):
        result = results.get((planned.method, planned.dataset), results.get(planned.method))
        if isinstance(result, list | tuple):
            result = result[planned.seed]
        views.append(view(planned, result))
    return plan, next(s for s in plan.stages if s.name == stage), views


def changed(views: list[ExperimentView], exp_id: str, **fields: Any) -> list[ExperimentView]:
    """The same views, with one of them changed."""
    assert any(v.exp_id == exp_id for v in views), exp_id
    return [replace(v, **fields) if v.exp_id == exp_id else v for v in views]


def judge(spec: Campaign, results: Any, stage: str = "minimal", edit: Any = None) -> StageVerdict:
    """The verdict on a stage with these results; `edit` may change its views first."""
    plan, found, views = run(spec, results, stage)
    return judge_stage(spec, plan, found, edit(views) if edit else views)


def only_check(verdict: StageVerdict) -> CheckVerdict:
    """The check of a stage that has one."""
    (check,) = verdict.checks
    return check
