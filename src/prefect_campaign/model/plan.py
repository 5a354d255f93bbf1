"""From a spec to its plan: the experiments of every stage, with stable ids and a hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.ids import digest, exp_id
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign, Selector, Stage
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import words_of

FULL = "full"
PILOT = "pilot"


@dataclass(frozen=True)
class PlannedExperiment:
    """One configuration with one seed, as the plan wants it."""

    exp_id: str
    phase: str
    stage: str
    stage_index: int
    """1, 2, 3 for pilot stages; 0 for the full phase."""
    group: str
    method: str | None
    dataset: str | None
    seed: int
    params: dict[str, Scalar]
    """All template fields but the reserved ones, role axes included."""
    purpose: str = ""
    definition: str = ""
    """Digest of command, environment and parameters: the same id must always mean the same work."""


@dataclass(frozen=True)
class Plan:
    """All experiments of one iteration of a campaign, in the order they are wanted."""

    experiments: tuple[PlannedExperiment, ...]
    plan_hash: str
    stages: tuple[Stage, ...] = field(repr=False)
    """The pilot stages, then the full phase."""

    def of_stage(self, stage: str) -> list[PlannedExperiment]:
        """The experiments of one stage, by its name."""
        return [e for e in self.experiments if e.stage == stage]


def make_plan(campaign: Campaign) -> Plan:
    """Expand a spec into its plan.

    Raises:
        Refused: more experiments than allowed, duplicate ids, or a stage without experiments.
    """
    limit = campaign.policy.max_experiments
    size = campaign.sweep.size()
    if size > limit:
        raise Refused(
            f"sweep: {size} experiments, but policy.max_experiments is {limit}; "
            "raise the limit or make the sweep smaller (it is never cut silently)"
        )
    # Only now: a sweep of billions must be refused before it is expanded.
    stages = (*(campaign.pilot or [default_stage(campaign)]), campaign.full)
    experiments: list[PlannedExperiment] = []
    seen: dict[str, str] = {}
    for index, stage in enumerate(stages):
        full = stage is campaign.full
        chosen = _stage_experiments(campaign, stage, 0 if full else index + 1)
        if not chosen:
            where = "full" if full else f"pilot stage {stage.name!r}"
            raise Refused(f"{where}: only matches no experiment of the sweep; check the values it names")
        for experiment in chosen:
            if experiment.exp_id in seen:
                raise Refused(
                    f"sweep: duplicate id {experiment.exp_id!r} in {seen[experiment.exp_id]} and stage "
                    f"{stage.name!r}; two points are the same experiment"
                )
            seen[experiment.exp_id] = f"stage {stage.name!r}"
        experiments += chosen
    if len(experiments) > limit:
        raise Refused(f"sweep: {len(experiments)} experiments in all stages, but policy.max_experiments is {limit}")
    return Plan(tuple(experiments), plan_hash(campaign, experiments, stages), stages)


def default_stage(campaign: Campaign) -> Stage:
    """For a campaign that names no pilot: all methods, with the first seed, dataset and value of the rest."""
    sweep = campaign.sweep
    only: dict[str, list[Scalar]] = {}
    points = list(sweep.expand())
    if sweep.random_search or sweep.optuna_search:
        return Stage(name="minimal", only={"seed": [points[0][1]]})
    first, seed = points[0]
    method = sweep.axis_of("method")
    for axis, value in first.items():
        if axis != method:
            only[axis] = [value]
    if sweep.zip_axes or sweep.point_list:
        only = {k: v for k, v in only.items() if k == sweep.axis_of("dataset")}
    return Stage(name="minimal", only={**only, "seed": [seed]})


def matches(selector: Selector, values: Mapping[str, Any]) -> bool:
    """Whether every axis named by `selector` has an accepted value (compared as value and as text)."""
    return all(
        values.get(axis) in accepted or str(values.get(axis)) in map(str, accepted)
        for axis, accepted in selector.items()
    )


def plan_hash(campaign: Campaign, experiments: list[PlannedExperiment], stages: tuple[Stage, ...]) -> str:
    """Digest of what an approval approves: what is run, how it is judged, and what it may use."""
    spec = campaign.model_dump(mode="json", include={"objective", "resources", "policy", "env", "workdir"})
    # As it was when 1 was the default: approvals of plans that do not name it hold on.
    spec["resources"]["cpus"] = spec["resources"]["cpus"] or 1
    rows = [[e.exp_id, e.stage, e.params, e.seed] for e in experiments]
    judged = [[s.name, s.scale, [c.model_dump(mode="json") for c in s.all_checks]] for s in stages]
    return digest([words_of(campaign.command), spec, rows, judged], 16)


def values_of(experiment: PlannedExperiment | ExperimentView, campaign: Campaign) -> dict[str, Any]:
    """What selectors look at: all parameters, the group, the seed under its axis name and as ``seed``."""
    seed_axis = campaign.sweep.axis_of("seed") or "seed"
    return {
        **experiment.params,
        "group": experiment.group,
        "seed": experiment.seed,
        seed_axis: experiment.seed,
    }


def _stage_experiments(campaign: Campaign, stage: Stage, index: int) -> list[PlannedExperiment]:
    sweep = campaign.sweep
    method_axis, dataset_axis = sweep.axis_of("method"), sweep.axis_of("dataset")
    seed_axis = sweep.axis_of("seed") or "seed"
    found = []
    for point, seed in sweep.expand():
        values: dict[str, Any] = {**point, "seed": seed, seed_axis: seed}
        group = next((name for name, g in campaign.groups.items() if g.only and matches(g.only, values)), "main")
        if not matches(stage.only, {**values, "group": group}):
            continue
        params = {**campaign.args, **point, **stage.args}
        method, dataset = (None if a is None else str(params[a]) for a in (method_axis, dataset_axis))
        plain = {k: v for k, v in params.items() if k not in (method_axis, dataset_axis)}
        found.append(
            PlannedExperiment(
                exp_id=exp_id(
                    prefix=f"p{index}" if index else "",
                    method=method,
                    dataset=dataset,
                    group=group,
                    params=plain,
                    seed=seed,
                ),
                phase=PILOT if index else FULL,
                stage=stage.name,
                stage_index=index,
                group=group,
                method=method,
                dataset=dataset,
                seed=seed,
                params=params,
                purpose=campaign.groups[group].purpose if group in campaign.groups else "",
                definition=digest([words_of(campaign.command), campaign.env, params, seed], 16),
            )
        )
    return found
