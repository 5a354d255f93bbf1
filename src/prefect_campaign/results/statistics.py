"""Whether a method really beats the best baseline: paired tests over seeds, corrected for their number."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_campaign.decide.compare import better, is_baseline, seed_stats
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.files import replacing
from prefect_campaign.results.select import Configuration, configurations, rank_key, result_stage

if TYPE_CHECKING:
    import polars as pl

FILE_NAME = "significance_tests.csv"

MIN_SEEDS = 3
"""Fewer equal seeds are no basis for a paired test."""

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
"""Fixed, so that the same results always give the same interval."""


@dataclass(frozen=True)
class MeanStd:
    """Mean, sample standard deviation (n - 1) and number of values."""

    mean: float | None
    """None without values."""
    std: float | None
    """None for fewer than two values: one value has no spread. Infinite where it overflows."""
    n: int


def mean_std(values: Iterable[float | None]) -> MeanStd:
    """Mean and sample standard deviation of the finite values; the others are left out."""
    stats = seed_stats(values)
    return MeanStd(stats.mean, stats.std if stats.std_known else None, stats.n)


def significance(views: Sequence[ExperimentView], campaign: Campaign, stage: str | None = None) -> "pl.DataFrame":
    """Test every configuration that is no baseline against the best baseline of its dataset.

    Per pair: paired t-test (two-sided) over the seeds that both have, at least `MIN_SEEDS`; percentile
    bootstrap 95 % interval of the mean difference (`RESAMPLES` draws, fixed seed); effect size d_z = mean
    difference / standard deviation of the differences (Cohen 1988); `p_holm` is corrected over all rows (Holm 1979).

    Where all differences are the same number the test has no noise to compare with, and its limit is written:
    difference 0 -> t 0, p 1, effect 0; else t and effect are infinite with the difference's sign, and p is 0.
    That says "always exactly so on these seeds", no more: seeds that change nothing are not evidence.

    Args:
        views: experiments; only done, comparable and finite ones count.
        campaign: names the objective, its direction and the axes' roles.
        stage: default: the most advanced stage with results.

    Returns:
        One row per tested pair. `mean_difference`, `ci_low`, `ci_high` are method minus baseline in metric
        units, whatever the direction; `better` says whether the difference points in the objective's direction
        (read it together with `p_holm`). Empty where no pair has enough equal seeds.
    """
    import polars as pl

    mode = campaign.objective.mode
    by_dataset: dict[str | None, list[Configuration]] = {}
    for configuration in configurations(views, campaign, stage or result_stage(views)):
        by_dataset.setdefault(configuration.dataset, []).append(configuration)
    rows: list[dict[str, Any]] = []
    for dataset, members in by_dataset.items():
        baselines = [c for c in members if is_baseline(c.group) and c.values]
        if not baselines:
            continue
        best = min(baselines, key=lambda c: (rank_key(mean_std(c.values.values()).mean, mode), c.label))
        for candidate in members:
            if is_baseline(candidate.group):
                continue
            tested = _paired(candidate.values, best.values)
            if tested is not None:
                names = {"dataset": dataset, "method": candidate.label, "baseline": best.label}
                right = better(tested["mean_difference"], 0.0, mode)
                rows.append({**names, "metric": campaign.objective.metric, **tested, "better": right})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    schema = _schema()
    return pl.DataFrame([[row[c] for c in schema] for row in rows], schema=schema, orient="row")


def write_significance(views: Sequence[ExperimentView], campaign: Campaign, folder: Path) -> Path:
    """Write `significance` as ``significance_tests.csv`` into `folder`; header only if nothing was tested."""
    path = folder / FILE_NAME
    with replacing(path) as temporary:
        significance(views, campaign).write_csv(temporary)
    return path


def read_significance(path: Path) -> "pl.DataFrame":
    """The table that `write_significance` wrote."""
    import polars as pl

    return pl.read_csv(path, schema=_schema())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6 (1979).
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _schema() -> dict[str, Any]:
    import polars as pl

    text = dict.fromkeys(("dataset", "method", "baseline", "metric"), pl.String)
    names = ("mean_difference", "ci_low", "ci_high", "t", "p", "p_holm", "effect_size")
    return {**text, "n": pl.Int64, **dict.fromkeys(names, pl.Float64), "better": pl.Boolean}


def _paired(method: dict[int, float], baseline: dict[int, float]) -> dict[str, Any] | None:
    """The numbers of one pair; None with too few equal seeds or differences beyond floating point."""
    import numpy as np
    from scipy import stats

    seeds = sorted(method.keys() & baseline.keys())
    if len(seeds) < MIN_SEEDS:
        return None
    differences = np.array([method[s] - baseline[s] for s in seeds])
    scale = max(abs(v) for s in seeds for v in (method[s], baseline[s]))
    summary = mean_std(differences.tolist())
    mean, std = summary.mean, summary.std
    if mean is None or std is None or summary.n < len(seeds) or not math.isfinite(std):
        return None
    # Equal up to rounding is equal: else 0.3 - 0.2 against 0.2 - 0.1 would count as noise.
    noiseless = std <= 1e-12 * scale
    if noiseless:
        mean = 0.0 if abs(mean) <= 1e-12 * scale else mean
        t = effect = math.copysign(math.inf, mean) if mean else 0.0
        p, low, high = (0.0 if mean else 1.0), mean, mean
    else:
        effect = mean / std
        t = effect * math.sqrt(len(seeds))
        p = float(2 * stats.t.sf(abs(t), len(seeds) - 1))
        draws = np.random.default_rng(BOOTSTRAP_SEED).integers(len(seeds), size=(RESAMPLES, len(seeds)))
        # Scaled, so that sums of huge differences do not overflow.
        means = (differences / scale)[draws].mean(axis=1) * scale
        low, high = (float(q) for q in np.quantile(means, [0.025, 0.975]))
    numbers = {"mean_difference": mean, "ci_low": low, "ci_high": high, "t": t, "p": p, "effect_size": effect}
    return {"n": len(seeds), **numbers}
