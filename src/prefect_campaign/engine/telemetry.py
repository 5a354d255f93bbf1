"""What one attempt reports: metric rows and log growth, read in deltas."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

import prefect_campaign.watch.metrics as reading
from prefect_campaign.ledger.observations import add_metrics
from prefect_campaign.model.records import AttemptSpec, MetricRow

TAIL_BYTES = 64 * 1024


class Telemetry:
    """Reads an attempt's files from where it stopped; `record` makes rows and read position durable together."""

    def __init__(self, spec: AttemptSpec) -> None:
        self.spec = spec
        self.cursors: dict[str, Any] = {}
        self.final: dict[str, float] = {}
        self._rows: list[MetricRow] = []

    def resume(self, cursors: dict[str, Any], metrics: dict[str, float]) -> None:
        """Go on where an earlier process stopped reading, with what it had seen."""
        self.cursors = dict(cursors)
        self.final = dict(metrics)

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

    def record(self, connection: Connection, campaign_id: int) -> None:
        """Write the rows read since the last time."""
        if self._rows:
            add_metrics(
                connection,
                campaign_id,
                self.spec.exp_id,
                self.spec.attempt,
                self._rows,
                self.spec.token,
                self.cursors,
            )
            self._rows = []

    def tail(self, name: str) -> str:
        """The end of a log, bounded and decoded."""
        return reading.tail(Path(self.spec.run_dir) / name, max_bytes=TAIL_BYTES, max_lines=400)

    def quiet_since(self, launched_at: float) -> float:
        """When a log or metric file last grew, in seconds since the epoch."""
        latest = launched_at
        for name in ("stdout.log", "stderr.log", "metrics.jsonl"):
            try:
                latest = max(latest, (Path(self.spec.run_dir) / name).stat().st_mtime)
            except OSError:
                continue
        return latest
