"""A registered campaign and short words for what dispatchers do to it."""

from dataclasses import dataclass
from typing import Any

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.ledger import batches, queries
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import CampaignRow, register
from prefect_campaign.ledger.experiments import (
    Intent,
    Move,
    Outcome,
    move,
    open_stage,
    record_intents,
    record_outcomes,
    record_submitted,
)
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.records import AttemptSpec, Handle
from prefect_campaign.model.states import AttemptState, ExperimentState

E = ExperimentState


def campaign(**changes: Any) -> Campaign:
    given = {
        "name": "demo",
        "command": "true {lr}",
        "sweep": Sweep.grid(lr=[1, 2, 3]),
        "objective": Objective(metric="acc"),
        "workdir": "/tmp",
    }
    return Campaign(**{**given, **changes})


@dataclass
class Book:
    """A campaign in a ledger."""

    ledger: Ledger
    row: CampaignRow

    def states(self) -> dict[str, str]:
        return {v.exp_id: v.state for v in self.views()}

    def views(self) -> list[Any]:
        with Reader(self.ledger.url) as reader:
            return queries.experiment_views(reader, self.row.id)

    def attempts(self) -> dict[str, dict[str, Any]]:
        return {r["token"]: r for r in self.rows(t.attempts)}

    def open_attempts(self) -> list[str]:
        with Reader(self.ledger.url) as reader:
            return [r["token"] for r in batches.open_attempts(reader, self.row.id)]

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with Reader(self.ledger.url) as reader:
            return _rows(reader, table)

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that is on record."""
        with Reader(self.ledger.url) as reader:
            return {name: _rows(reader, table) for name, table in t.metadata.tables.items()}

    def open_stage(self, stage: str = "minimal") -> None:
        with self.ledger.write() as connection:
            open_stage(connection, self.row.id, stage, now=self.ledger.clock())

    def move(self, exp_id: str, old: E, new: E, **more: Any) -> None:
        with self.ledger.write() as connection:
            move(connection, self.row.id, [Move(exp_id, old, new, **more)], now=self.ledger.clock(), who="test")

    def intend(self, exp_id: str, attempt: int = 1, *, old: E = E.READY, device: str = "slot-0") -> AttemptSpec:
        spec = attempt_of(exp_id, attempt)
        with self.ledger.write() as connection:
            intents = [Intent(spec, old, "local", "here", (device,))]
            record_intents(connection, self.row.id, intents, now=self.ledger.clock())
        return spec

    def submit(self, spec: AttemptSpec) -> None:
        handle = Handle("local", "here", "1", {"pid": 1})
        with self.ledger.write() as connection:
            record_submitted(connection, self.row.id, [(spec, handle)], now=self.ledger.clock())

    def launch(self, exp_id: str, attempt: int = 1, *, old: E = E.READY, device: str = "slot-0") -> AttemptSpec:
        spec = self.intend(exp_id, attempt, old=old, device=device)
        self.submit(spec)
        return spec

    def end(self, spec: AttemptSpec, new: E = E.DONE, *, old: E = E.RUNNING, values: dict | None = None) -> None:
        final = AttemptState.DONE if new == E.DONE else AttemptState.FAILED
        outcome = Outcome(
            spec.token, final, Move(spec.exp_id, old, new, "ended", values or {}), self.ledger.clock(), exit_code=0
        )
        with self.ledger.write() as connection:
            record_outcomes(connection, self.row.id, [outcome], now=self.ledger.clock())


def _rows(reader: Reader, table: Any) -> list[dict[str, Any]]:
    return reader.rows(f'SELECT * FROM "{table.name}" ORDER BY id')


def attempt_of(exp_id: str, attempt: int) -> AttemptSpec:
    return AttemptSpec(exp_id, attempt, f"t-{exp_id}-a{attempt}", ("true",), {}, "/", f"/r/{exp_id}/{attempt}", {}, 0)


def register_demo(ledger: Ledger, *, new_round: bool = False, **changes: Any) -> Book:
    spec = campaign(**changes)
    with ledger.write() as connection:
        row = register(
            connection, spec, make_plan(spec), now=ledger.clock(), spec_path="/tmp/spec.yaml", new_round=new_round
        )
    return Book(ledger, row)
