"""The table of results: one row per finished experiment and final metric."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_campaign.model.plan import FULL
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.files import replacing
from prefect_campaign.results.text import clean, when

if TYPE_CHECKING:
    import polars as pl

COLUMNS = (
    "exp_id",
    "method",
    "dataset",
    "group",
    "metric",
    "seed",
    "value",
    "host",
    "gpu",
    "finished_at",
)
"""Fixed, in this order; readers depend on it."""

FINAL = "final/"


def all_results(views: Sequence[ExperimentView], campaign: Campaign) -> "pl.DataFrame":
    """The full phase in long format: every finite ``final/`` metric, and the objective under any name.

    Values of experiments whose fix changed what is measured are in here too; `not_comparable` names them.

    Returns:
        Columns `COLUMNS`, sorted by dataset, method, group, seed, id and metric; `finished_at` is UTC, ISO 8601.
    """
    return _table([v for v in views if v.phase == FULL], campaign)


def pilot_results(views: Sequence[ExperimentView], campaign: Campaign) -> "pl.DataFrame":
    """The same for all pilot stages: kept apart, so that no pilot number is ever taken for a result."""
    return _table([v for v in views if v.phase != FULL], campaign)


def not_comparable(views: Sequence[ExperimentView]) -> "pl.DataFrame":
    """Done experiments to leave out of comparisons, and what a fix changed in them.

    Returns:
        Columns exp_id, phase, method, dataset, seed, changes.
    """
    import polars as pl

    rows = [
        (v.exp_id, v.phase, _text(v.method), _text(v.dataset), v.seed, clean("; ".join(v.changes)))
        for v in sorted(views, key=lambda v: v.exp_id)
        if v.state == ExperimentState.DONE and not v.comparable
    ]
    schema = {"exp_id": pl.String, "phase": pl.String, "method": pl.String, "dataset": pl.String}
    return pl.DataFrame(rows, schema={**schema, "seed": pl.Int64, "changes": pl.String}, orient="row")


def write_all_results(views: Sequence[ExperimentView], campaign: Campaign, folder: Path) -> list[Path]:
    """Write the tables into `folder`, each in one step, with a header even when there is nothing yet.

    Returns:
        all_results.csv, all_results.parquet, pilot_results.csv and not_comparable.csv.
    """
    full = all_results(views, campaign)
    tables = {
        "all_results.csv": full,
        "all_results.parquet": full,
        "pilot_results.csv": pilot_results(views, campaign),
        "not_comparable.csv": not_comparable(views),
    }
    for name, table in tables.items():
        with replacing(folder / name) as temporary:
            if name.endswith(".parquet"):
                table.write_parquet(temporary)
            else:
                table.write_csv(temporary)
    return [folder / name for name in tables]


def _table(views: Sequence[ExperimentView], campaign: Campaign) -> "pl.DataFrame":
    import polars as pl

    rows = [row for v in views if v.state == ExperimentState.DONE for row in _rows(v, campaign)]
    rows.sort(key=lambda r: (r[2] or "", r[1] or "", r[3], r[5], r[0], r[4]))
    schema: dict[str, Any] = dict.fromkeys(COLUMNS, pl.String)
    return pl.DataFrame(rows, schema={**schema, "seed": pl.Int64, "value": pl.Float64}, orient="row")


def _rows(view: ExperimentView, campaign: Campaign) -> Iterator[tuple[Any, ...]]:
    values = {k: v for k, v in view.metrics.items() if k.startswith(FINAL)}
    metric = campaign.objective.metric
    objective = view.objective_value if view.objective_value is not None else view.metrics.get(metric)
    if objective is not None:
        values[metric] = objective
    for name, value in values.items():
        if math.isfinite(value):
            # Text columns hold what the spec said, so only what no file can hold is taken out.
            yield (
                view.exp_id,
                _text(view.method),
                _text(view.dataset),
                view.group,
                clean(name),
                view.seed,
                float(value),
                _text(view.host),
                _text(view.gpu),
                when(view.ended_at),
            )


def _text(value: str | None) -> str | None:
    return None if value is None else clean(value)
