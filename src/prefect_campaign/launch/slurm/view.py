"""What Slurm's queue looked like at one moment (pure)."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from prefect_campaign.launch.slurm.state import OVER
from prefect_campaign.launch.slurm.text import JobId, Row, Tasks

_serials = itertools.count()

Key = tuple[str, str]
"""Name of a job and its id without the task."""


@dataclass
class _Rows:
    """The rows of one job or array."""

    exact: dict[int | None, Row] = field(default_factory=dict)
    groups: list[tuple[Tasks, Row]] = field(default_factory=list)

    def row(self, index: int | None) -> Row | None:
        found = self.exact.get(index)
        if found is not None or index is None:
            return found
        grouped = next((row for tasks, row in self.groups if index in tasks), None)
        if grouped is not None:
            return grouped
        # An array of which no task ever ran ends as one row without tasks; a cut list may hold any.
        whole = self.exact.get(None)
        if whole is not None and whole.state in OVER:
            return whole
        return next((row for tasks, row in self.groups if tasks.cut), None)


class View:
    """All rows of one answer, by name and id.

    Args:
        rows: of squeue or sacct.
        asked_at: just before the question, in seconds since the epoch.
        names: which names were asked for; None: all of the user.
    """

    def __init__(self, rows: Iterable[Row], asked_at: float, names: frozenset[str] | None = None) -> None:
        self.serial = next(_serials)
        self.asked_at = asked_at
        self.names = names
        self._jobs: dict[Key, _Rows] = {}
        self._bases: dict[str, set[str]] = {}
        for row in rows:
            jobs = self._jobs.setdefault((row.name, row.id.base), _Rows())
            if row.id.tasks is not None:
                jobs.groups.append((row.id.tasks, row))
            else:
                jobs.exact[row.id.task] = row  # of several (it ran again) the last is the newest
            self._bases.setdefault(row.name, set()).add(row.id.base)

    def row(self, name: str, base: str, index: int | None) -> Row | None:
        """What is said of one job or task."""
        rows = self._jobs.get((name, base))
        return rows.row(index) if rows else None

    def bases(self, name: str, mark: str = "") -> list[str]:
        """Ids of the jobs with this name, lowest first.

        Args:
            name: of the job.
            mark: if given, those whose comment is another mark of ours are left out.
        """
        found = [base for base in self._bases.get(name, ()) if not (mark and self._foreign(name, base, mark))]
        return sorted(found, key=int)

    def covers(self, names: Iterable[str]) -> bool:
        """Whether the question was about these names."""
        return self.names is None or self.names.issuperset(names)

    def _foreign(self, name: str, base: str, mark: str) -> bool:
        rows = self._jobs[name, base]
        comments = {row.comment for row in (*rows.exact.values(), *(row for _, row in rows.groups))}
        return any(comment.startswith("pc:") and comment != mark for comment in comments)


def id_text(base: str, index: int | None) -> str:
    """``123`` or ``123_4``."""
    return base if index is None else f"{base}_{index}"


def split_id(text: str) -> JobId | None:
    """The id in a handle; None if it is none."""
    base, _, task = text.partition("_")
    if not base.isdecimal() or (task and not task.isdecimal()):
        return None
    return JobId(base, int(task) if task else None)


def grouped(ids: Iterable[tuple[str, int | None]], longest: int = 4000) -> list[str]:
    """Ids as few words: ``123_[0-9,11]``; each at most about `longest` characters."""
    by_base: dict[str, list[int]] = {}
    words = []
    for base, index in ids:
        if index is None:
            words.append(base)
        else:
            by_base.setdefault(base, []).append(index)
    for base, indices in by_base.items():
        parts: list[str] = []
        for first, last in _runs(sorted(set(indices))):
            parts.append(str(first) if first == last else f"{first}-{last}")
            if sum(map(len, parts)) + len(parts) > longest:
                words.append(f"{base}_[{','.join(parts)}]")
                parts = []
        if parts:
            words.append(f"{base}_[{','.join(parts)}]")
    return words


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs
