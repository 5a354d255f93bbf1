"""What Slurm's programs print, read (pure): ids of submitted jobs, rows of squeue and sacct, sets of array tasks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prefect_campaign.launch.slurm.state import state_name
from prefect_campaign.launch.slurm.tables import read_table

MARK = "pc"
"""First field of our rows, by which they are told from whatever else a site prints."""

SQUEUE_FORMAT = f"{MARK}|%i|%T|%r|%N|%j|%k"
SACCT_FIELDS = ("JobID", "State", "ExitCode", "NodeList", "JobName")
_QUEUE_COLUMNS = ("mark", "jobid", "state", "reason", "nodelist", "name", "comment")
_NO_NODE = ("None assigned", "(null)", "n/a", "None")

_SUBMITTED = re.compile(r"(?:^|:\s|\s)(?:submitted batch job|granted job allocation)\s+(\d+)(?!\S*\d)", re.I)
_CHATTER = re.compile(r"\bsubmitted (?:batch )?job:?\s+(\d+)\b", re.I)
_PARSABLE = re.compile(r"(\d+)(?:;([\w.+-]+))?")
_JOB_ID = re.compile(r"(\d+)(?:_(\d+|\[[\d,:%.+-]*\]?\S*)|\+(\d+))?")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_SETTING = re.compile(r"^\s*(\w+)\s*=\s*(.*?)\s*$")


@dataclass(frozen=True)
class Tasks:
    """A set of array tasks, as ranges: ``4-9,11,20-30:2%5``."""

    ranges: tuple[range, ...]
    throttle: int | None = None
    """How many may run at once."""
    cut: bool = False
    """Whether the text was cut short (``...``), so that there may be more."""

    def __contains__(self, task: object) -> bool:
        return any(task in some for some in self.ranges)

    def __iter__(self) -> Iterator[int]:
        return (task for some in self.ranges for task in some)


@dataclass(frozen=True)
class JobId:
    """A job's id as Slurm prints it."""

    base: str
    task: int | None = None
    tasks: Tasks | None = None
    """Set for tasks of an array that wait together: ``123_[4-9%2]``."""
    component: int | None = None
    """Of a heterogeneous job: ``123+1``."""


@dataclass(frozen=True)
class Row:
    """One job, task or group of waiting tasks, as squeue or sacct shows it."""

    id: JobId
    name: str
    state: str
    reason: str = ""
    node: str = ""
    comment: str = ""
    exit_code: int | None = None
    signal: int | None = None


def read_submitted(out: str, err: str = "") -> str | None:
    """The id that sbatch printed, whatever a site's plug-ins say around it; None if there is none.

    Args:
        out: stdout, with ``--parsable`` or without.
        err: stderr, where some plug-ins say it.
    """
    for line in reversed(out.splitlines()):
        if parsable := _PARSABLE.fullmatch(line.strip()):
            return parsable[1]
    for text in (out, err):
        if found := _last(_SUBMITTED, text):
            return found
    return _last(_CHATTER, out) or _last(_CHATTER, err)


def read_id(text: str) -> JobId | None:
    """A job's id; None for a step, or for what is none at all."""
    found = _JOB_ID.fullmatch(text.strip())
    if not found:
        return None
    base, task, component = found.groups()
    if task is None:
        return JobId(base, component=int(component) if component else None)
    if task.isdecimal():
        return JobId(base, int(task))
    return JobId(base, tasks=read_tasks(task))


def read_tasks(text: str) -> Tasks:
    """A set of tasks such as ``[4-9,11%2]``; what cannot be read of it counts as cut off."""
    body, _, limit = text.strip().strip("[]").partition("%")
    digits = re.match(r"\d+", limit)
    ranges, cut = [], "..." in text
    for part in filter(None, body.replace("...", "").split(",")):
        found = _RANGE.fullmatch(part)
        if not found:
            cut = True
            continue
        first, last, step = found.groups()
        ranges.append(range(int(first), int(last or first) + 1, max(1, int(step or 1))))
    return Tasks(tuple(ranges), int(digits[0]) if digits else None, cut)


def read_queue(out: str) -> list[Row]:
    """The rows of ``squeue --format`` with `SQUEUE_FORMAT`; any other line is left out."""
    rows = []
    for found in read_table(out, _QUEUE_COLUMNS, "|"):
        id_ = read_id(found.get("id", ""))
        if id_ is not None and found.get("mark") == MARK:
            node = found["node"] if found["node"] not in _NO_NODE else ""
            rows.append(Row(id_, found["name"], state_name(found["state"]), found["reason"], node, found["comment"]))
    return rows


def read_accounting(out: str) -> list[Row]:
    """The rows of ``sacct --parsable2`` with `SACCT_FIELDS`: whole jobs and tasks, no steps; other lines are left out.

    Where a job is told several times (it ran again), the last one that was submitted or started stands last.
    """
    rows = []
    for found in read_table(out, SACCT_FIELDS, "|"):
        id_ = read_id(found.get("id", ""))
        if id_ is None or "name" not in found or "exit" not in found:
            continue
        code, signal = read_exit(found["exit"])
        node = found["node"] if found["node"] not in _NO_NODE else ""
        rows.append(Row(id_, found["name"], state_name(found["state"]), "", node, "", code, signal))
    return rows


def read_exit(text: str) -> tuple[int | None, int | None]:
    """``code:signal`` as sacct and scontrol print it."""
    code, _, signal = text.strip().partition(":")
    return int(code) if code.isdecimal() else None, int(signal) if signal.isdecimal() else None


def read_config(out: str) -> dict[str, str]:
    """``scontrol show config``: name -> value."""
    return {found[1]: found[2] for line in out.splitlines() if (found := _SETTING.match(line))}


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return str(found[-1]) if found else None
