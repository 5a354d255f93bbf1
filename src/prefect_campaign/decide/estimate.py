"""What the full phase will cost, estimated from what the pilot took."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefect_campaign.decide.compare import number
from prefect_campaign.model.plan import FULL, PILOT, Plan, PlannedExperiment
from prefect_campaign.model.records import UNKNOWN_WALL_MINUTES, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.model.sweep import Scalar

SAFETY = 1.2
LEAST_HOURS = 0.5

_STEPS = ("steps", "max_steps")
_PASSES = ("epochs",)
_SAMPLES = ("samples", "max_samples", "data_fraction")
AMOUNTS = frozenset((*_STEPS, *_PASSES, *_SAMPLES))
"""Parameters by which `work_ratio` knows how much more or less work is done."""


@dataclass(frozen=True)
class CostEstimate:
    """Hours and money: used so far, and asked for the full phase.

    Device hours are hours x GPUs of one experiment (slot hours without GPUs).
    """

    per_experiment: Mapping[str, float | None]
    """exp_id -> hours by the clock of one full experiment; None where unknown."""
    total_hours: float | None
    """Device hours asked for the full phase; None if any experiment's is unknown."""
    used_hours: float
    """Device hours used so far."""
    experiments: int
    datasets: int
    devices: int
    """Devices (or slots) that one experiment takes."""
    wall_clock_hours: float | None
    """Until the last one ends with `slots` at a time; None if unknown."""
    slots: int | None
    price: float | None
    """Money for the full phase; None without a price or an estimate."""
    price_used: float | None
    currency: str
    basis: str
    """How the estimate was made, one line."""

    @property
    def mean_hours(self) -> float | None:
        """Device hours of one full experiment on average."""
        if self.total_hours is None or not self.experiments:
            return None
        return self.total_hours / self.experiments


def estimate_full_hours(
    campaign: Campaign,
    plan: Plan,
    pilot_views: Sequence[ExperimentView],
    *,
    slots: int | None = None,
    platform_factor: float = 1.0,
) -> CostEstimate:
    """Estimate the full phase: per experiment ``max(minutes / 60 x ratio x factor x 1.2, 0.5)`` hours.

    `minutes` are of finished pilot runs of the same method and dataset, in the latest stage that has any;
    where there are none, of all finished pilot runs. `ratio` is the work of a full experiment over that of
    the pilot run: the stage's `scale`, else what the parameters say (steps, or epochs x samples), else 1.
    `Resources.expected_minutes` replaces all of this.

    Args:
        campaign: the spec.
        plan: the iteration's plan.
        pilot_views: the experiments so far; hours used are summed over all of them.
        slots: experiments that run at a time; default `Policy.max_parallel`.
        platform_factor: time on the machine of the full phase over time on that of the pilot.
    """
    wanted = [e for e in plan.experiments if e.phase == FULL]
    timed = [v for v in pilot_views if v.phase == PILOT and v.state == ExperimentState.DONE and _minutes(v)]
    scales = {s.name: s.scale for s in plan.stages}
    expected = campaign.resources.expected_minutes
    hours: dict[str, float | None] = {}
    measured: dict[str, float | None] = {}
    matched = 0
    ratios: dict[str, None] = {}
    for experiment in wanted:
        if expected is not None:
            hours[experiment.exp_id] = expected / 60
            continue
        same = [v for v in timed if (v.method, v.dataset) == (experiment.method, experiment.dataset)]
        matched += bool(same)
        measured[experiment.exp_id] = _hours(experiment, same or timed, scales, platform_factor, ratios)
    hours |= {exp_id: None if h is None else max(h, LEAST_HOURS) for exp_id, h in measured.items()}

    devices = max(campaign.resources.gpus, 1)
    known = [h for h in hours.values() if h is not None]
    total = sum(known) * devices if len(known) == len(wanted) else None
    used = sum(_minutes(v) for v in pilot_views) / 60 * devices
    slots = slots or campaign.policy.max_parallel
    price = campaign.policy.budget.price_per_hour
    return CostEstimate(
        per_experiment=hours,
        total_hours=total,
        used_hours=used,
        experiments=len(wanted),
        datasets=len({e.dataset for e in wanted}),
        devices=devices,
        wall_clock_hours=_makespan(known, slots) if total is not None and slots else None,
        slots=slots,
        price=None if price is None or total is None else price * total,
        price_used=None if price is None else price * used,
        currency=campaign.policy.budget.currency,
        basis=_basis(expected, timed, len(wanted), matched, ratios, platform_factor) + _below_least(measured, devices),
    )


def wall_hours(estimate: float | None) -> int:
    """Whole hours to ask from a scheduler: ceil(1.5 x estimate), at least 1; 12 when unknown."""
    if estimate is None or not math.isfinite(estimate) or estimate <= 0:
        return UNKNOWN_WALL_MINUTES // 60
    return math.ceil(1.5 * estimate)


def wall_minutes(limit: float | None, seconds: float | None) -> int:
    """Minutes to ask from a scheduler: the limit after which it is stopped anyway, else by how long it may take."""
    if limit is not None:
        return math.ceil(limit)
    return 60 * wall_hours(None if seconds is None else max(seconds / 3600, LEAST_HOURS))


def work_ratio(full: Mapping[str, Scalar], pilot: Mapping[str, Scalar]) -> tuple[float, str]:
    """Work of a full run over that of a pilot run, from the parameters that both have.

    Steps decide alone if they differ; else it is the ratio of epochs times that of the samples seen.

    Returns:
        The ratio (1.0 where no parameter tells) and its basis, e.g. ``epochs 2 to 10``.
    """
    steps = _change(full, pilot, _STEPS)
    changes = [steps] if steps else [_change(full, pilot, _PASSES), _change(full, pilot, _SAMPLES)]
    known = [c for c in changes if c]
    return math.prod(c[0] for c in known), " and ".join(c[1] for c in known)


def _hours(
    experiment: PlannedExperiment,
    timed: Sequence[ExperimentView],
    scales: Mapping[str, float | None],
    factor: float,
    ratios: dict[str, None],
) -> float | None:
    """Hours of one full experiment by pilot runs alone; notes in `ratios` what the scaling rests on."""
    if not timed:
        return None
    latest = max(v.stage_index for v in timed)
    minutes = []
    for view in timed:
        if view.stage_index != latest:
            continue
        scale = scales.get(view.stage)
        if scale is not None:
            ratio, basis = scale, f"scale {number(scale)} of stage {view.stage}"
        else:
            ratio, basis = work_ratio(experiment.params, view.params)
        ratios[basis or f"no scale known for stage {view.stage}, taken as 1"] = None
        minutes.append(_minutes(view) * ratio)
    return sum(minutes) / len(minutes) / 60 * factor * SAFETY


def _minutes(view: ExperimentView) -> float:
    """Run time over all attempts, because a full run retries as well; 0.0 if unknown."""
    seconds = view.busy_seconds
    if not seconds and view.started_at is not None and view.ended_at is not None:
        seconds = view.ended_at - view.started_at
    return seconds / 60 if math.isfinite(seconds) and seconds > 0 else 0.0


def _change(full: Mapping[str, Scalar], pilot: Mapping[str, Scalar], names: Sequence[str]) -> tuple[float, str] | None:
    """Ratio and basis of the first of `names` that both have; None if none, or if they are equal."""
    for name in names:
        a, b = _positive(full.get(name)), _positive(pilot.get(name))
        if a is not None and b is not None:
            return (a / b, f"{name} {number(b)} to {number(a)}") if a != b else None
    return None


def _positive(value: Scalar | None) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def _makespan(hours: Sequence[float], slots: int) -> float:
    """When the last one ends if the longest go first, each to the slot that is free first."""
    ends = [0.0] * min(slots, max(len(hours), 1))
    for duration in sorted(hours, reverse=True):
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def _below_least(measured: Mapping[str, float | None], devices: int) -> str:
    """What it would be without `LEAST_HOURS`, if that makes any difference: more is asked than was measured."""
    known = [h for h in measured.values() if h is not None]
    if all(h >= LEAST_HOURS for h in known):
        return ""
    seconds = sum(known) * devices * 3600
    told = f"{number(math.ceil(seconds))} s" if seconds < 60 else f"{number(math.ceil(seconds / 60))} min"
    return f"; by the measured runs alone it is {told} in all: resources.expected_minutes overrules the least"


def _basis(
    expected: float | None,
    timed: Sequence[ExperimentView],
    wanted: int,
    matched: int,
    ratios: Mapping[str, None],
    factor: float,
) -> str:
    if expected is not None:
        return f"resources.expected_minutes: {number(expected)} min for each of {wanted} experiments"
    if not timed:
        return "unknown: no finished pilot run to estimate from; set resources.expected_minutes"
    shown = "; ".join(list(ratios)[:3]) + ("; ..." if len(ratios) > 3 else "")
    rest = f", {wanted - matched} by the mean of all pilot runs" if wanted > matched else ""
    platform = f", platform factor {number(factor)}" if factor != 1 else ""
    return (
        f"{len(timed)} finished pilot runs, {matched} of {wanted} experiments by runs of the same method and "
        f"dataset{rest}; work: {shown}; x {SAFETY} for safety, at least {LEAST_HOURS} h{platform}"
    )
