"""Which measured values count as results, and how experiments form configurations and stages."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect_campaign.decide.compare import Mode, finite, result_of
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.results.text import one_line

_UNTOUCHED = {ExperimentState.PLANNED, ExperimentState.CANCELLED, ExperimentState.SUPERSEDED}


@dataclass(frozen=True)
class Configuration:
    """All seeds of one stage that share method, dataset, group and parameters."""

    stage: str
    method: str | None
    dataset: str | None
    group: str
    params: dict[str, Scalar]
    """Only the parameters in which it differs from others of the same method and dataset."""
    views: tuple[ExperimentView, ...]

    @property
    def label(self) -> str:
        """Short name on one line, e.g. ``svm`` or ``svm [C=10]``."""
        varying = ", ".join(f"{k}={v}" for k, v in self.params.items())
        name = self.method if self.method is not None else ("" if varying else self.group)
        return one_line(f"{name} [{varying}]" if name and varying else name or varying)

    @property
    def values(self) -> dict[int, float]:
        """Seed -> objective value of the results that count."""
        found = ((v.seed, result_of(v)) for v in self.views)
        return {seed: value for seed, value in found if value is not None}


def rank_key(value: float | None, mode: Mode) -> tuple[bool, float]:
    """Sort key, best first; a missing or non-finite value always comes last."""
    if value is None or not finite(value):
        return True, 0.0
    return False, -value if mode == "max" else value


def best_result(views: Iterable[ExperimentView], mode: Mode) -> ExperimentView | None:
    """The single experiment with the best objective value that counts, if any does."""
    found = [v for v in views if result_of(v) is not None]
    return min(found, key=lambda v: (rank_key(v.objective_value, mode), v.exp_id), default=None)


def stages(views: Iterable[ExperimentView]) -> list[str]:
    """Stage names, most advanced first: the full phase, then the pilot stages backwards."""
    order = {v.stage: (v.phase != FULL, -v.stage_index) for v in views}
    return sorted(order, key=lambda s: order[s])


def of_stage(views: Iterable[ExperimentView], stage: str | None) -> list[ExperimentView]:
    """The experiments of one stage."""
    return [v for v in views if v.stage == stage]


def current_stage(views: Sequence[ExperimentView]) -> str | None:
    """The most advanced stage that was ever opened; the first one if none was."""
    touched = {v.stage for v in views if v.state not in _UNTOUCHED}
    names = stages(views)
    return next((s for s in names if s in touched), names[-1] if names else None)


def result_stage(views: Sequence[ExperimentView]) -> str | None:
    """The most advanced stage that has a result; else `current_stage`."""
    with_results = {v.stage for v in views if result_of(v) is not None}
    return next((s for s in stages(views) if s in with_results), current_stage(views))


def configurations(views: Sequence[ExperimentView], campaign: Campaign, stage: str | None) -> list[Configuration]:
    """The configurations of one stage, in the order in which the views name them."""
    roles = {campaign.sweep.axis_of(role) for role in ("method", "dataset", "seed")}
    plain = {id(v): {k: p for k, p in v.params.items() if k not in roles} for v in of_stage(views, stage)}
    cells: dict[tuple[str | None, str | None], dict[str, list[ExperimentView]]] = {}
    for view in of_stage(views, stage):
        same = json.dumps([view.group, plain[id(view)]], sort_keys=True, default=str)
        cells.setdefault((view.method, view.dataset), {}).setdefault(same, []).append(view)
    found = []
    for (method, dataset), members in cells.items():
        firsts = [plain[id(same[0])] for same in members.values()]
        names = dict.fromkeys(k for params in firsts for k in params)
        varying = [k for k in names if len({json.dumps(p.get(k), default=str) for p in firsts}) > 1]
        found += [
            Configuration(
                stage=str(stage),
                method=method,
                dataset=dataset,
                group=same[0].group,
                params={k: plain[id(same[0])][k] for k in varying if k in plain[id(same[0])]},
                views=tuple(same),
            )
            for same in members.values()
        ]
    return found
