"""The experiment log: one row per experiment, shared with people who write into it.

Text from logs and people is written as it is: a spreadsheet may take a cell that starts with ``=``, ``+``,
``-`` or ``@`` for a formula. Import untrusted columns as text; changing them here would change the record.
"""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.files import replacing
from prefect_campaign.results.text import clean, when

COLUMNS = (
    "experiment_id",
    "parent_experiment_id",
    "queue_job_id",
    "status",
    "task_key",
    "command",
    "config_path",
    "run_dir",
    "objective_metric",
    "objective_mode",
    "objective_value",
    "metrics_json",
    "hypothesis",
    "change_summary",
    "result_summary",
    "next_action",
    "started_at",
    "ended_at",
    "created_at",
    "updated_at",
    "owner",
    "notes",
)
"""Fixed, in this order; columns that people add follow."""

KEPT_WHERE_OURS_IS_EMPTY = ("config_path", "hypothesis", "next_action", "owner")
"""What people may fill in by hand; `notes` are theirs always."""

_S = ExperimentState

_STATUS = {
    _S.PLANNED: "planned",
    _S.READY: "planned",
    _S.QUEUED: "queued",
    _S.LAUNCHING: "queued",
    _S.RUNNING: "running",
    _S.DONE: "completed",
    _S.FAILED: "failed",
    _S.CANCELLED: "cancelled",
    _S.SUPERSEDED: "superseded",
}

Row = dict[str, str]


def write_experiment_log(
    views: Sequence[ExperimentView],
    campaign: Campaign,
    path: Path,
    *,
    config_path: str = "",
    owner: str = "",
) -> list[str]:
    """Bring the log at `path` up to date with `views`, without losing what people wrote into it.

    Notes survive every time, and so do unknown columns and rows, and `KEPT_WHERE_OURS_IS_EMPTY`. A file that
    is no such log (not UTF-8, not CSV, no experiment_id column) is moved aside as ``<name>.damaged-<n>``.

    Args:
        views: all experiments; one row each, in this order, before the rows of others.
        campaign: names the objective.
        path: ``experiment_log.csv``; comma, semicolon or tab separated files are read, commas are written.
        config_path: where the spec lies, if it came from a file.
        owner: who runs the campaign.

    Returns:
        What was wrong with the old file, one line each; empty if nothing was.
    """
    problems: list[str] = []
    header: list[str] = []
    old: list[Row] = []
    try:
        header, old = _read(path)
    except (ValueError, csv.Error) as error:
        aside = _move_aside(path)
        problems.append(f"{path}: not a readable experiment log ({error}); moved to {aside.name}")
    ours = {v.exp_id: _row(v, campaign, config_path, owner) for v in views}
    extra = [name for name in header if name not in COLUMNS]
    others = []
    for row in old:
        mine = ours.get(row["experiment_id"])
        if mine is None:
            others.append(row)
            continue
        mine["notes"] = _both(row.get("notes", ""), mine["notes"])
        for name in (*KEPT_WHERE_OURS_IS_EMPTY, *extra):
            mine[name] = mine.get(name) or row.get(name, "")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *extra], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*ours.values(), *others])
    return problems


def status_of(view: ExperimentView) -> str:
    """The log's word for an experiment's state; one on hold counts as running while it has a live attempt."""
    state = ExperimentState(view.state)
    if state is ExperimentState.ON_HOLD:
        return "running" if view.started_at is not None and view.ended_at is None else "queued"
    return _STATUS[state]


def _row(view: ExperimentView, campaign: Campaign, config_path: str, owner: str) -> Row:
    value = view.objective_value
    # Groups all seeds of the same work, e.g. small/main/svm/digits.
    task = "/".join(part for part in (view.stage, view.group, view.method, view.dataset) if part)
    values = {
        "experiment_id": view.exp_id,
        "parent_experiment_id": view.parent or "",
        "queue_job_id": view.job_id or "",
        "status": status_of(view),
        "task_key": task,
        "command": view.command,
        "config_path": config_path,
        "run_dir": view.run_dir or "",
        "objective_metric": campaign.objective.metric,
        "objective_mode": campaign.objective.mode,
        "objective_value": "" if value is None or not math.isfinite(value) else repr(value),
        "metrics_json": _json(view.metrics),
        "hypothesis": view.hypothesis,
        "change_summary": "; ".join(view.changes),
        "result_summary": view.result_summary or view.reason,
        "next_action": view.next_action,
        "started_at": when(view.started_at),
        "ended_at": when(view.ended_at),
        "created_at": when(view.created_at),
        "updated_at": when(view.updated_at),
        "owner": owner,
        "notes": view.notes,
    }
    return {name: clean(text) for name, text in values.items()}


def _json(metrics: Mapping[str, float]) -> str:
    """Strict JSON; what is not finite is named, because JSON has no number for it."""
    names = {math.inf: "Infinity", -math.inf: "-Infinity"}
    plain = {k: v if math.isfinite(v) else names.get(v, "NaN") for k, v in metrics.items()}
    return json.dumps(plain, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _both(theirs: str, ours: str) -> str:
    """Notes of the file, and those lines of the ledger's that it does not have yet."""
    if not theirs:
        return ours
    known = theirs.split("\n")
    return "\n".join([theirs, *(line for line in ours.split("\n") if line and line not in known)])


def _read(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of an existing log; nothing for a missing or empty file.

    Raises:
        ValueError: it is no such log.
        csv.Error: it is not CSV.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark first
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return [], []
    if not text.strip():
        return [], []
    csv.field_size_limit(sys.maxsize)
    for delimiter in ",;\t":
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(lines, [])
        if "experiment_id" not in header:
            continue
        if len(set(header)) < len(header):
            raise ValueError("a column name is there twice")
        rows = []
        for line in lines:
            if len(line) > len(header):
                raise ValueError(f"line {lines.line_num} has {len(line)} cells for {len(header)} columns")
            if any(line):
                filled = [clean(cell) for cell in line] + [""] * (len(header) - len(line))
                rows.append(dict(zip(header, filled, strict=True)))
        return header, rows
    raise ValueError("no column experiment_id")


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside
