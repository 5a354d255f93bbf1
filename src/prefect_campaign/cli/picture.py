"""The picture of a campaign in a terminal. Light on imports: `campaign status` draws it too."""

import time
from collections import Counter
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.text import printable

TROUBLED = ("failed", "on_hold", "queued", "launching")
"""States of which people want to know why."""
MOST_REASONS = 5
FINAL = ("done", "failed", "cancelled", "superseded")
COLOURS = {"done": "green", "failed": "red", "running": "cyan", "launching": "cyan", "on_hold": "yellow"}


def render(row: dict[str, Any], views: list[ExperimentView]) -> Group:
    """The picture of a campaign: a bar for each stage, and what ended last."""
    bars = Table.grid(padding=(0, 2))
    stages = list(dict.fromkeys(v.stage for v in views))
    for stage in stages:
        members = [v for v in views if v.stage == stage and v.state != "superseded"]
        if not members:
            continue
        over = sum(v.state in FINAL for v in members)
        counts = Counter(v.state for v in members)
        told = Text("  ").join(Text(f"{n} {s}", style=COLOURS.get(s, "dim")) for s, n in sorted(counts.items()))
        marker = ">" if stage == row["stage"] else " "
        bars.add_row(
            f"{marker} {stage}",
            ProgressBar(total=len(members), completed=over, width=30),
            f"{over}/{len(members)}",
            told,
        )
    latest = Table.grid(padding=(0, 2))
    ended = sorted((v for v in views if v.ended_at and v.state in FINAL), key=lambda v: v.ended_at or 0)[-5:]
    for view in ended:
        value = "" if view.objective_value is None else f"{view.objective_value:.4g}"
        latest.add_row(
            Text(view.state, style=COLOURS.get(view.state, "dim")),
            view.exp_id,
            value,
            Text(printable(view.reason)[:60]),
        )
    waits = [Text(why, style="dim")] if (why := waits_of(row, views)) else []
    title = Text(f"{row['name']}  round {row['round']}  iteration {row['iteration']}  [{row['status']}]", style="bold")
    return Group(title, bars, *waits, Text(""), latest)


def overview_table(rows: list[dict[str, Any]], waits_for: dict[int, str]) -> Table:
    """One line a campaign: where it is, how far its stage is, and what it waits for.

    Args:
        rows: `ledger.queries.overview`.
        waits_for: row id -> what a person has to do.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("campaign", "status", "stage"):
        table.add_column(column, no_wrap=True)
    table.add_column("ended", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        counts = {state: n for state, n in row["counts"].items() if state != "superseded"}
        told = [f"{n} {state}" for state, n in sorted(counts.items()) if state not in ("done", "planned")]
        over = f"{sum(n for state, n in counts.items() if state in FINAL)}/{sum(counts.values())}"
        note = waits_for.get(row["id"]) or printable(row["reason"]) or ", ".join(told)
        table.add_row(Text(row["name"]), row["status"], Text(row["stage"]), over, Text(note))
    return table


def experiment_table(views: list[ExperimentView], width: int) -> Table:
    """One line an experiment: state, attempts, value, and as much of the note as `width` has room for."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("experiment", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("try", justify="right", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("note")
    values = ["" if v.objective_value is None else f"{v.objective_value:.4g}" for v in views]
    columns = [
        ["experiment", *(v.exp_id for v in views)],
        ["state", *(v.state for v in views)],
        ["try"],
        ["value", *values],
    ]
    room = max(16, width - sum(max(map(len, cells)) + 2 for cells in columns) - 2)
    for v, value in zip(views, values, strict=True):
        note = v.reason if v.state in TROUBLED else v.monitoring.get("note", "")
        told = note if v.comparable else f"not comparable ({', '.join(v.changes)}); {note}"
        table.add_row(
            v.exp_id,
            Text(v.state, style=COLOURS.get(v.state, "dim")),
            str(v.attempt),
            value,
            Text(printable(told if len(told) <= room else told[: room - 1] + "…")),
        )
    return table


def reasons(views: list[ExperimentView]) -> list[str]:
    """What keeps or ended experiments, in full, each reason once: the table has no room for it."""
    held: dict[tuple[str, str], list[str]] = {}
    for v in views:
        if v.state in TROUBLED and v.reason:
            # Reasons that differ in nothing but the name of the experiment are one.
            told = " ".join(printable(v.reason).split()).replace(v.exp_id, "\N{HORIZONTAL ELLIPSIS}")
            held.setdefault((v.state, told), []).append(v.exp_id)
    most = sorted(held.items(), key=lambda item: -len(item[1]))
    lines = [f"{state}: {names[0]}{_more(names)}: {told}" for (state, told), names in most[:MOST_REASONS]]
    return lines + ([f"and {len(most) - MOST_REASONS} other reasons"] if len(most) > MOST_REASONS else [])


def driven(row: dict[str, Any]) -> bool:
    """Whether a process drives the campaign now."""
    return row["owner"] is not None and (row["owner_expires"] or 0.0) > time.time()


def waits_of(row: dict[str, Any], views: list[ExperimentView]) -> str:
    """Why some wait; empty if what was told holds no more: nobody drives the campaign, or none does wait."""
    some = driven(row) and any(v.stage == row["stage"] and v.state in ("ready", "queued") for v in views)
    return printable(row["waits"]) if some else ""


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
