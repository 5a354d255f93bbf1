"""Comparing results in the right direction: a missing or non-finite value never wins."""

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Objective
from prefect_campaign.model.states import ExperimentState

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class SeedStats:
    """Mean and spread of one configuration's results over its seeds."""

    n: int
    mean: float | None
    """None without a finite value."""
    std: float
    """Sample standard deviation (ddof = 1); 0.0 where it is unknown."""
    std_known: bool
    """False for fewer than two seeds."""


@dataclass(frozen=True)
class Baseline:
    """What candidates on one dataset are compared with."""

    kind: Literal["run", "reported", "failed", "none"]
    """`run`: the best of the baseline experiments. `reported`: `Objective.baseline`. `failed`: baselines were
    run here, but none has a result that counts. `none`: nothing to compare with."""
    value: float | None = None
    label: str = ""
    exp_ids: tuple[str, ...] = ()


def finite(value: float | None) -> bool:
    """Whether there is a value and it is a number (not nan, not inf)."""
    return value is not None and math.isfinite(value)


def better(a: float | None, b: float | None, mode: Mode) -> bool:
    """Whether `a` is strictly better than `b`.

    A missing or non-finite `a` is never better; a finite `a` is better than a missing or non-finite `b`.
    """
    if a is None or not math.isfinite(a):
        return False
    if b is None or not math.isfinite(b):
        return True
    return a > b if mode == "max" else a < b


def improvement(value: float | None, reference: float | None, mode: Mode) -> float | None:
    """How much better `value` is than `reference`, in metric units: positive is better in either mode.

    None if either is missing or not finite, or if the difference overflows.
    """
    if value is None or reference is None:
        return None
    delta = value - reference if mode == "max" else reference - value
    return delta if math.isfinite(delta) else None


def reaches(value: float, least: float) -> bool:
    """Whether ``value >= least``, up to rounding: 0.57 - 0.56 reaches 0.01."""
    return value >= least or math.isclose(value, least, rel_tol=1e-6)


def seed_stats(values: Iterable[float | None]) -> SeedStats:
    """Statistics over the finite values; the others are left out."""
    kept = [v for v in values if v is not None and math.isfinite(v)]
    if not kept:
        return SeedStats(n=0, mean=None, std=0.0, std_known=False)
    # statistics.mean computes exactly, so values near the largest float do not overflow on the way.
    mean = statistics.mean(map(float, kept))
    if len(kept) == 1:
        return SeedStats(n=1, mean=mean, std=0.0, std_known=False)
    try:
        std = statistics.stdev(map(float, kept))
    except OverflowError:
        std = math.inf
    return SeedStats(n=len(kept), mean=mean, std=std, std_known=True)


def result_of(view: ExperimentView) -> float | None:
    """The experiment's objective value if it counts: done, comparable and finite; else None."""
    counts = view.state == ExperimentState.DONE and view.comparable and finite(view.objective_value)
    return view.objective_value if counts else None


def is_baseline(group: str) -> bool:
    """Whether a group of this name holds baselines: its name starts with ``baseline``."""
    return group.lower().startswith("baseline")


def best_baseline(objective: Objective, views: Sequence[ExperimentView], dataset: str | None) -> Baseline:
    """The baseline to beat on `dataset`, among the baseline experiments in `views`.

    That is the configuration with the best mean over its seeds. Where no baseline is run on the dataset it
    is the value that the spec reports, if any. Baselines that ran and gave no result that counts are not
    replaced by the reported value: it was measured elsewhere, and a broken baseline needs a look first.
    """
    mine = [v for v in views if is_baseline(v.group) and v.dataset == dataset]
    return best_of(objective, mine)


def best_of(objective: Objective, mine: Sequence[ExperimentView]) -> Baseline:
    """The best configuration of `mine` as the one to beat; the reported value where there is none."""
    if not mine:
        if finite(objective.baseline):
            return Baseline("reported", objective.baseline, "reported value")
        return Baseline("none")
    groups: dict[Hashable, list[ExperimentView]] = {}
    for view in mine:
        key = (view.group, tuple(sorted((k, repr(v)) for k, v in view.params.items())))
        groups.setdefault(key, []).append(view)
    best = Baseline("failed", exp_ids=tuple(v.exp_id for v in mine))
    for members in groups.values():
        counted = [v for v in members if result_of(v) is not None]
        mean = seed_stats(map(result_of, counted)).mean
        if better(mean, best.value, objective.mode):
            label = counted[0].method or counted[0].group
            best = Baseline("run", mean, label, tuple(v.exp_id for v in counted))
    return best


def number(value: float | None, *, sign: bool = False) -> str:
    """A value for people: four significant digits, an en dash where there is none."""
    if value is None:
        return "–"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def count(n: int, noun: str) -> str:
    """E.g. ``1 dataset``, ``2 datasets``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
