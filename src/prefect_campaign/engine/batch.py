"""The dispatcher's picture of its batch, loaded from the ledger and kept in step with what it records."""

from dataclasses import replace
from itertools import islice
from typing import Any

from prefect_campaign.ledger import batches, queries
from prefect_campaign.ledger.experiments import Move, Outcome
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.records import AttemptSpec, ExperimentView, FixRecord
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.placement.slots import Demand

WAITING = (ExperimentState.READY, ExperimentState.QUEUED)


class Batch:
    """Experiments of one stage, by what can happen to them next."""

    def __init__(self, ledger: Ledger, campaign_id: int, stage: str) -> None:
        self._ledger = ledger
        self._campaign_id = campaign_id
        self._stage = stage
        self.views: dict[str, ExperimentView] = {}
        self.waiting: dict[str, ExperimentView] = {}
        """Ready or queued ones, in plan order."""
        self.retry_at: dict[str, float] = {}
        self.healed: dict[str, dict[str, Any]] = {}
        self.fixes: dict[str, list[FixRecord]] = {}
        self.first_intent: dict[str, float] = {}
        self.attempts_before_reopening: dict[str, int] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.hours = 0.0
        """Device hours that all ended attempts of the campaign took."""

    def load(self) -> None:
        """Read everything again."""
        with Reader(self._ledger.url) as reader:
            views = queries.experiment_views(reader, self._campaign_id, self._stage)
            columns = batches.retry_columns(reader, self._campaign_id, self._stage)
            tried = batches.tried(reader, self._campaign_id)
            since = batches.reopened_at(reader, self._campaign_id)
            self.hours = batches.hours_used(reader, self._campaign_id)
        self.views = {v.exp_id: v for v in views}
        self.waiting = {v.exp_id: v for v in views if v.state in WAITING}
        self.metrics = {v.exp_id: v.metrics for v in views}
        self.retry_at = {c["exp_id"]: c["retry_at"] for c in columns if c["retry_at"]}
        self.healed = {c["exp_id"]: c["healed"] for c in columns if c["healed"]}
        self.fixes, self.first_intent, self.attempts_before_reopening = {}, {}, {}
        for row in tried:
            exp_id = row["exp_id"]
            if row["intent_at"] < since.get(exp_id, 0.0):
                self.attempts_before_reopening[exp_id] = row["attempt"]
                continue
            self.first_intent.setdefault(exp_id, row["intent_at"])
            if row["fix"]:
                self.fixes.setdefault(exp_id, []).append(FixRecord(row["attempt"], row["signature"], row["fix"]))

    def open_attempts(self) -> list[dict[str, Any]]:
        """Attempts of this stage that are not over, oldest first."""
        with Reader(self._ledger.url) as reader:
            rows = batches.open_attempts(reader, self._campaign_id)
        return [r for r in rows if r["exp_id"] in self.views]

    def launching(self, spec: AttemptSpec) -> None:
        """An attempt is under way."""
        self.waiting.pop(spec.exp_id, None)
        self.retry_at.pop(spec.exp_id, None)
        self.first_intent.setdefault(spec.exp_id, self._ledger.clock())
        view = self.views[spec.exp_id]
        self.views[spec.exp_id] = replace(
            view, attempt=spec.attempt, state=ExperimentState.RUNNING, params=dict(spec.params)
        )

    def ended(self, spec: AttemptSpec, outcome: Outcome) -> None:
        """An attempt is over; its experiment waits again or is final."""
        values = outcome.move.values
        view = replace(
            self.views[spec.exp_id],
            state=outcome.move.new,
            attempt=spec.attempt,
            objective_value=values.get("objective_value"),
            comparable=values.get("comparable", self.views[spec.exp_id].comparable),
        )
        self.views[spec.exp_id] = view
        self.hours += (outcome.ended_at - outcome.started_at) / 3600 if outcome.started_at else 0.0
        if outcome.move.new != ExperimentState.QUEUED:
            return
        self.waiting[spec.exp_id] = view
        self.retry_at[spec.exp_id] = values.get("retry_at", 0.0)
        if "healed" in values:
            self.healed[spec.exp_id] = values["healed"]
        if outcome.fix and outcome.diagnosis:
            record = FixRecord(spec.attempt, outcome.diagnosis.signature, outcome.fix)
            self.fixes.setdefault(spec.exp_id, []).append(record)

    def called_off(self, exp_id: str, state: ExperimentState, why: str) -> Move:
        """A waiting experiment will not be launched; returns the move to record."""
        view = self.waiting.pop(exp_id)
        self.views[exp_id] = replace(view, state=state)
        return Move(exp_id, ExperimentState(view.state), state, why)

    def due(self, now: float, most: int) -> list[Demand]:
        """Up to `most` of the waiting that may start now, most wanted first."""
        found = (Demand(e, self.retry_at.get(e, 0.0)) for e in self.waiting if self.retry_at.get(e, 0.0) <= now)
        return list(islice(found, most))

    def history(self) -> list[ExperimentView]:
        """Experiments of this stage with their results so far."""
        return list(self.views.values())
