"""What one attempt reports: metric rows and log growth, read in deltas."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefect_campaign.watch.metrics as reading
from prefect_campaign.ledger.observations import Reading
from prefect_campaign.model.records import AttemptSpec, MetricRow

TAIL_BYTES = 64 * 1024
RECENT_SECONDS = 120.0
"""How old what another host said of a job may be when it is judged by it."""


@dataclass(frozen=True)
class Heard:
    """What the host of a job elsewhere said of its silence; the copies of its files here say nothing of that."""

    asked_at: float
    """Seconds since the epoch, before the host was asked."""
    quiet_since: float
    """When the job last wrote something, in seconds since the epoch."""

    def silent_for(self, launched_at: float, now: float) -> float:
        """Seconds that the job was silent when its host was asked; 0 if that is too long ago to judge by."""
        if not 0 <= now - self.asked_at <= RECENT_SECONDS:
            return 0.0
        return max(0.0, self.asked_at - max(self.quiet_since, launched_at))


class Telemetry:
    """Reads an attempt's files from where it stopped; what it `take`s is to be made durable with the read position."""

    def __init__(self, spec: AttemptSpec) -> None:
        self.spec = spec
        self.cursors: dict[str, Any] = {}
        self.final: dict[str, float] = {}
        self.has_course = False
        """Whether there may be more than one value of some metric."""
        self._rows: list[MetricRow] = []
        self._recorded = False

    def resume(self, cursors: dict[str, Any], metrics: dict[str, float]) -> None:
        """Go on where an earlier process stopped reading, with what it had seen."""
        self.cursors = dict(cursors)
        self.final = dict(metrics)
        self._recorded = True

    def read(self) -> bool:
        """Read what is new, up to the reader's limit; whether there was any."""
        rows, self.cursors = reading.read_metrics(Path(self.spec.run_dir), self.cursors)
        self._rows += rows
        self.final.update(reading.final_values(rows))
        return bool(rows)

    def read_rest(self) -> None:
        """Read to the end: the attempt is over."""
        rows, self.cursors = reading.read_rest(Path(self.spec.run_dir), self.cursors)
        self._rows += rows
        self.final.update(reading.final_values(rows))

    def non_finite(self, objective: str) -> str | None:
        """Name of a loss-like metric, or of the objective, whose latest value is not finite."""
        return reading.non_finite([MetricRow(self.final)], objective)

    def take(self) -> Reading | None:
        """The rows read since the last time, to be written with the read position; None if there are none."""
        if not self._rows:
            return None
        rows, self._rows = self._rows, []
        first, self._recorded = not self._recorded, True
        self.has_course |= len(rows) > 1 or not first
        return Reading(self.spec.exp_id, self.spec.attempt, self.spec.token, rows, self.cursors, first)

    def tail(self, name: str) -> str:
        """The end of a log, bounded and decoded."""
        return reading.tail(Path(self.spec.run_dir) / name, max_bytes=TAIL_BYTES, max_lines=400)

    def quiet_since(self, launched_at: float) -> float:
        """When a log or metric file here last grew, in seconds since the epoch.

        It tells something of a job of this machine only: what is here of others is a copy.
        """
        latest = launched_at
        for name in ("stdout.log", "stderr.log", "metrics.jsonl"):
            try:
                latest = max(latest, (Path(self.spec.run_dir) / name).stat().st_mtime)
            except OSError:
                continue
        return latest
