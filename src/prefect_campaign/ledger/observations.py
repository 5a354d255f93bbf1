"""What watching writes: metric rows, read positions, analyses, artifacts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, insert, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.model.records import MetricRow

CURVE_POINTS = 400
"""A metric's stored curve is thinned to about this many points; the full rows stay in the run dir."""


@dataclass(frozen=True)
class Reading:
    """Metric rows of one attempt that are new."""

    exp_id: str
    attempt: int
    token: str
    rows: Sequence[MetricRow]
    cursors: dict[str, Any]
    """How far the attempt's files are read with these rows."""
    first: bool = False
    """Nothing of this attempt is stored yet; spares looking for it."""


def add_metrics(connection: Connection, campaign_id: int, readings: Sequence[Reading]) -> None:
    """Append metric rows to the curves, and remember how far the files were read, in one transaction."""
    if not readings:
        return
    table = t.metrics
    inserts: list[dict[str, Any]] = []
    for one in readings:
        stored = {} if one.first else _stored(connection, campaign_id, one)
        for name, points in _points(one.rows).items():
            old = stored.get(name)
            values = {
                "last": points[-1][1],
                "points": (old["points"] if old else 0) + len(points),
                "curve": _thinned([*(old["curve"] if old else []), *points]),
            }
            if old:
                connection.execute(update(table).where(table.c.id == old["id"]).values(**values))
            else:
                key = {"campaign_id": campaign_id, "exp_id": one.exp_id, "attempt": one.attempt, "name": name}
                inserts.append(key | values)
    if inserts:
        connection.execute(insert(table), inserts)
    connection.execute(_cursors_statement(), [{"_token": one.token, "_cursors": one.cursors} for one in readings])


def note_experiment(connection: Connection, campaign_id: int, exp_id: str, **values: Any) -> None:
    """Set descriptive columns (hypothesis, result_summary, monitoring, tracking_url ...); never the state."""
    if {"state", "attempt", "exp_id"} & set(values):
        raise ValueError("state and identity change by transitions only")
    table = t.experiments
    connection.execute(
        update(table).where(table.c.campaign_id == campaign_id, table.c.exp_id == exp_id).values(**values)
    )


def add_artifacts(
    connection: Connection,
    campaign_id: int,
    found: Iterable[tuple[str, str, str]],
    *,
    now: float,
    exp_id: str | None = None,
) -> None:
    """List files as artifacts: (kind, title, path); a path that is listed already is left alone."""
    table = t.artifacts
    known = set(connection.execute(select(table.c.path).where(table.c.campaign_id == campaign_id)).scalars())
    rows = [
        {
            "campaign_id": campaign_id,
            "exp_id": exp_id,
            "kind": k,
            "title": title,
            "path": p,
            "created_at": now,
        }
        for p, (k, title) in {p: (k, title) for k, title, p in found}.items()
        if p not in known
    ]
    if rows:
        connection.execute(insert(table), rows)


def _stored(connection: Connection, campaign_id: int, one: Reading) -> dict[str, Any]:
    table = t.metrics
    query = select(table).where(
        table.c.campaign_id == campaign_id, table.c.exp_id == one.exp_id, table.c.attempt == one.attempt
    )
    return {row["name"]: row for row in connection.execute(query).mappings()}


def _points(rows: Iterable[MetricRow]) -> dict[str, list[list[float | None]]]:
    """The rows by metric, as points of a curve; JSON has no word for what is not finite."""
    found: dict[str, list[list[float | None]]] = {}
    for row in rows:
        for name, value in row.values.items():
            found.setdefault(name, []).append([row.step, value if math.isfinite(value) else None])
    return found


@cache
def _cursors_statement() -> Update:
    return update(t.attempts).where(t.attempts.c.token == bindparam("_token")).values(cursors=bindparam("_cursors"))


def _thinned(points: list[list[float | None]]) -> list[list[float | None]]:
    """At most twice `CURVE_POINTS`: every second inner point goes when there are more; first and last stay."""
    while len(points) > 2 * CURVE_POINTS:
        points = [*points[:-1:2], points[-1]]
    return points
