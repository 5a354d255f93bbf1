"""For how long a job on shared disks has written nothing, by the clock of those disks alone."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefect_campaign.launch.script import STDERR_NAME, STDOUT_NAME
from prefect_campaign.model.clock import Clock

METRICS_NAME = "metrics.jsonl"

_CLOCK_NAME = ".clock"
_BRIEF_SECONDS = 60.0
"""A shorter silence means nothing to anybody, and is told without asking the disk for its time."""


class SilenceReader:
    """Tells since when jobs are silent, for one look at many of them.

    A file server has a clock of its own, and one that is late would make every job look silent. So its time is taken
    from a file that is written there now: once for each file system, and only if some job may be silent at all.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead: dict[int, float | None] = {}
        """File system -> how far this machine's clock is ahead of its, in seconds; None if that cannot be seen."""

    def quiet_since(self, run_dir: str) -> float | None:
        """When a job last wrote to a log or metric file, by this machine's clock; None if that cannot be told."""
        written = _written(Path(run_dir), (STDOUT_NAME, STDERR_NAME, METRICS_NAME))
        if written is None:
            return None
        last, disk = written
        if 0 <= self._clock() - last < _BRIEF_SECONDS:
            return last
        if disk not in self._ahead:
            self._ahead[disk] = self._measured(Path(run_dir))
        ahead = self._ahead[disk]
        return None if ahead is None else last + ahead

    def _measured(self, run_dir: Path) -> float | None:
        path = run_dir / f"{_CLOCK_NAME}.{secrets.token_hex(4)}"
        try:
            try:
                path.write_bytes(b"\n")
                return self._clock() - path.stat().st_mtime
            finally:
                path.unlink(missing_ok=True)
        except OSError:
            return None


def _written(run_dir: Path, names: Sequence[str]) -> tuple[float, int] | None:
    """When one of the files was written last, and the file system that it is on; None if there is none of them."""
    found = []
    for name in names:
        with suppress(OSError):
            stat = os.stat(run_dir / name)
            found.append((stat.st_mtime, stat.st_dev))
    return max(found, default=None)
