"""Metric rows and log text of an attempt, read in deltas: metrics.jsonl and what it prints."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect_campaign.model.records import MetricRow
from prefect_campaign.watch.files import FileCursor, read_lines
from prefect_campaign.watch.logs import last_redraw, log_delta, tail

__all__ = ["Cursor", "final_values", "log_delta", "non_finite", "read_metrics", "read_rest", "tail"]

METRICS_NAME = "metrics.jsonl"
STDOUT_NAME = "stdout.log"

Cursor = dict[str, FileCursor]
"""File name -> where to go on. Empty to begin with; JSON-able, kept by the caller."""

_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_WORD_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_PAIR = re.compile(r"(?<![^\s,;])([^\W\d][\w./@:-]*)=([^\s,;]+)")
_BLOCK_LINE = re.compile(r"\s*([^\W\d][^\s:=]*)\s*:\s+(\S.*)")
_LONGEST_NAME = 200


def read_metrics(run_dir: Path, cursor: Cursor, *, final: bool = False) -> tuple[list[MetricRow], Cursor]:
    """The metric rows that are new since `cursor`, at most `files.MAX_READ` bytes of each file.

    Read are ``metrics.jsonl`` (one JSON object a line: metric names to numbers, nested ones joined with '/',
    optional ``step`` and ``time``) and, from ``stdout.log``, ``key=value`` pairs and the ``key: value`` lines
    that follow a line ``---``. A half-written last line is left for later. Lines that cannot be used are
    counted under ``bad`` in the cursor, and a file that cannot be read has an ``error`` there.

    Args:
        run_dir: the attempt's folder.
        cursor: as returned by the last call, or empty.
        final: the job is over, so that a last line without a newline counts as well.

    Returns:
        The rows (those of stdout first) and the next cursor; an equal cursor means that nothing was new.
    """
    rows, cursor, _ = _read(run_dir, cursor, final)
    return rows, cursor


def read_rest(run_dir: Path, cursor: Cursor) -> tuple[list[MetricRow], Cursor]:
    """All rows up to the end, however much that is, once the job is over."""
    rows: list[MetricRow] = []
    at_end = False
    while not at_end:
        more, cursor, at_end = _read(run_dir, cursor, final=True)
        rows += more
    return rows, cursor


def final_values(rows: Iterable[MetricRow]) -> dict[str, float]:
    """The last value of every metric."""
    return {name: value for row in rows for name, value in row.values.items()}


def non_finite(rows: Iterable[MetricRow], objective: str) -> str | None:
    """Name of the first metric that is not finite and matters: the objective, or one with "loss" in its last part."""
    for row in rows:
        for name, value in row.values.items():
            if not math.isfinite(value) and (name == objective or "loss" in name.rsplit("/", 1)[-1].lower()):
                return name
    return None


def _read(run_dir: Path, cursor: Cursor, final: bool) -> tuple[list[MetricRow], Cursor, bool]:
    printed, from_stdout, stdout_ended = _read_stdout(run_dir, cursor.get(STDOUT_NAME, {}), final)
    written, from_file, file_ended = _read_jsonl(run_dir, cursor.get(METRICS_NAME, {}), final)
    following = {STDOUT_NAME: from_stdout, METRICS_NAME: from_file}
    return printed + written, {k: v for k, v in following.items() if v}, stdout_ended and file_ended


def _read_jsonl(run_dir: Path, cursor: FileCursor, final: bool) -> tuple[list[MetricRow], FileCursor, bool]:
    lines, cursor, at_end = read_lines(run_dir / METRICS_NAME, cursor, final=final)
    rows, bad = [], 0
    for line in lines:
        try:
            row = _json_row(line)
        except (ValueError, RecursionError):
            bad += 1
            continue
        if row is not None:
            rows.append(row)
    if bad:
        cursor = {**cursor, "bad": cursor.get("bad", 0) + bad}
    return rows, cursor, at_end


def _json_row(line: bytes) -> MetricRow | None:
    """One line of metrics.jsonl; None for a blank one or one without a number.

    Raises:
        ValueError: it is not a JSON object.
    """
    text = line.decode("utf-8", "replace").lstrip("\ufeff").strip()
    if not text:
        return None
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    step, time = _finite(record.pop("step", None)), _finite(record.pop("time", None))
    values: dict[str, float] = {}
    _collect(record, "", values)
    return MetricRow(values, step, time) if values else None


def _collect(record: dict[str, Any], prefix: str, into: dict[str, float]) -> None:
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            _collect(value, f"{name}/", into)
        elif name and (number := _number(value)) is not None:
            into[_clean(name)] = number


def _number(value: Any) -> float | None:
    """A JSON value as a number; also the strings NaN and Infinity, which JSON itself has no word for."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str) and _WORD_NUMBER.fullmatch(value.strip()):
        return float(value)
    return None


def _finite(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and math.isfinite(number) else None


def _read_stdout(run_dir: Path, cursor: FileCursor, final: bool) -> tuple[list[MetricRow], FileCursor, bool]:
    lines, following, at_end = read_lines(run_dir / STDOUT_NAME, cursor, final=final)
    # A file that was replaced starts outside of any block: its cursor carries nothing over.
    in_block = bool(following.get("block"))
    rows = []
    for line in lines:
        if not (in_block or b"=" in line or b"---" in line):
            continue
        text = last_redraw(line.decode("utf-8", "replace"))
        in_block, values = _printed(text, in_block)
        step = _finite(values.pop("step", None))
        if values:
            rows.append(MetricRow(values, step))
    following = {k: v for k, v in following.items() if k != "block"}
    return rows, {**following, "block": True} if in_block else following, at_end


def _printed(text: str, in_block: bool) -> tuple[bool, dict[str, float]]:
    """What a printed line reports: (whether a block goes on after it, its metrics)."""
    if text.strip() == "---":
        return True, {}
    if in_block and (found := _BLOCK_LINE.fullmatch(text)):
        pairs = [(found[1], found[2].rstrip())]
    else:
        in_block, pairs = False, _PAIR.findall(text)
    return in_block, {_clean(name): float(value) for name, value in pairs if _NUMBER.fullmatch(value)}


def _clean(name: str) -> str:
    """A name that every database and terminal can take."""
    if not name.isprintable():
        name = "".join(c if c.isprintable() else "?" for c in name)
    return name[:_LONGEST_NAME]
