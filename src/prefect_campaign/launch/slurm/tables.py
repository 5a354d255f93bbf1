"""Tables as Slurm's programs print them, in any format that people and sites use, as rows of named fields (pure).

Columns come from the caller, or from a header line. Values are separated by whatever separates the header's names, or
by blanks as in the default formats of squeue and sacct.
"""

import re
from collections.abc import Sequence

FIELDS = {
    "id": ("jobid", "jobidraw", "job_id", "stepid", "%i", "%a_id"),
    "state": ("state", "st", "jobstate", "%t"),
    "reason": ("reason", "%r"),
    "node": ("nodelist", "nodes_list", "%n"),
    "where": ("nodelist(reason)", "%R"),
    "name": ("name", "jobname", "%j"),
    "comment": ("comment", "%k"),
    "exit": ("exitcode",),
    "started": ("start", "start_time", "%S"),
    "ended": ("end", "end_time", "%e"),
    "submitted": ("submit", "submit_time", "%V"),
    "limit": ("timelimit", "time_limit", "%l"),
    "restarts": ("restarts",),
}
"""Our name of a field -> names in headers and formats."""

_KNOWN = {text: ours for ours, texts in FIELDS.items() for text in texts}
_RULE = re.compile(r"[-\s]+")
_CLUSTER = re.compile(r"CLUSTER: (\S+)")
_DEFAULT = re.compile(
    r"(?P<id>\d+(?:[_+.]\S+)?)\s+(?P<partition>\S+)\s+(?P<name>.*?)\s+\S+\s+(?P<state>[A-Z]{1,2})\s+"
    r"(?:\d+-)?[\d:]+\s+\d+\s*(?P<where>.*)"
)
"""A row of ``squeue`` without ``--format``: names of jobs may have blanks, and columns may have run together."""
_JOB = re.compile(r"\d+(?:_(?:\d+|\[[\d,:%.+-]*\]?\S*)|\+\d+)?(?:\.\S+)?")


def read_table(out: str, columns: Sequence[str] = (), delimiter: str = "") -> list[dict[str, str]]:
    """Rows with the fields of `FIELDS` that are there; what is no row (banners, rules, headers) is left out.

    Args:
        out: what was printed.
        columns: names of the columns in order, as in a header or a format; empty: the header says them.
        delimiter: what stands between values; empty: as in the header, or blanks.
    """
    names, asked = [_field(column) for column in columns], bool(columns)
    rows, cluster = [], ""
    for line in out.splitlines():
        if found := _CLUSTER.fullmatch(line.strip()):
            cluster = found[1]
            continue
        header = _header(line, delimiter)
        if header is not None:
            # A header may come though none was asked for; it is more to be trusted than what was asked.
            names, delimiter = header
            asked = False
            continue
        row = _row(line, names, delimiter, strict=asked)
        if row is not None:
            rows.append({**row, **({"cluster": cluster} if cluster else {})})
    return rows


def read_blocks(out: str) -> list[dict[str, str]]:
    """Jobs as ``scontrol show job`` prints them, in many lines or (``-o``) in one: its own names -> values."""
    jobs: list[dict[str, str]] = []
    for found in re.finditer(r"(?:^|\s)([A-Za-z][\w:/.]*)=(.*?)(?=\s+[A-Za-z][\w:/.]*=|\s*$)", out, re.MULTILINE):
        if found[1] == "JobId":
            jobs.append({})
        if jobs:
            jobs[-1].setdefault(found[1], found[2])
    return jobs


def _field(name: str) -> str:
    text = name.strip()
    return _KNOWN.get(text) or _KNOWN.get(text.lower()) or text.lower()


def _header(line: str, delimiter: str) -> tuple[list[str], str] | None:
    lowered = line.lower()
    if not re.search(r"\b(jobid|stepid|job_id|jobidraw|account)\b", lowered) or re.search(r"\d", line):
        return None
    if not delimiter:
        found = re.search(r"[A-Za-z)]([^A-Za-z0-9_\s():]+|\x1f)[A-Za-z]", line)
        delimiter = found[1] if found else ""
    words = line.strip("\n").split(delimiter) if delimiter else line.split()
    names = [_field(word) for word in words]
    return (names, delimiter) if {"id", "state"} & set(names) else None


def _row(line: str, names: Sequence[str], delimiter: str, *, strict: bool) -> dict[str, str] | None:
    if not line.strip() or _RULE.fullmatch(line):
        return None
    if delimiter:
        values = line.strip("\n").split(delimiter, len(names) - 1 if names else -1)
        if strict and len(values) < len(names):
            return None  # cut off
        row = {name: value.strip() for name, value in zip(names, values, strict=False)}
    elif "where" in names or not names:
        found = _DEFAULT.fullmatch(line.strip())
        if not found:
            return _loose(line)
        row = {name: value for name, value in found.groupdict().items() if value is not None}
    else:
        words = line.split()
        row = dict(zip(names, words, strict=False))
        if len(words) != len(names) and (loose := _loose(line)):
            row |= loose  # a value is missing, and those after it stand in wrong columns
    if "id" in row and not _JOB.fullmatch(row["id"]):
        return None
    return _parted(row)


def _loose(line: str) -> dict[str, str] | None:
    """Id, state and exit code of a row whose columns are not known, by what they look like."""
    words = line.split()
    if not words or not _JOB.fullmatch(words[0]):
        return None
    states = [word for word in words[1:] if re.fullmatch(r"[A-Z][A-Z_]{4,}\+?", word)]
    codes = [word for word in words[1:] if re.fullmatch(r"\d+:\d+", word)]
    row = {"id": words[0]}
    return {**row, **({"state": states[-1]} if states else {}), **({"exit": codes[-1]} if codes else {})}


def _parted(row: dict[str, str]) -> dict[str, str]:
    """The last column of squeue is a reason in brackets, or the nodes."""
    where = row.pop("where", None)
    if where is not None:
        reason = where.startswith("(") and where.endswith(")")
        row.setdefault("reason" if reason else "node", where)
    return row
