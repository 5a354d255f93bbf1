"""The dispatcher's picture of its campaign, loaded from the ledger and kept in step with what it records."""

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from prefect_campaign.engine.attempts import run_dir_of
from prefect_campaign.engine.durations import Times
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.outcomes import INTERRUPTED, LAUNCH_FAILED, QUEUE_FULL, RetryRules
from prefect_campaign.ledger import batches, queries
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import Move, Outcome
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.ids import token
from prefect_campaign.model.records import AttemptSpec, ExperimentView, FixRecord
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import CampaignStatus, ExperimentState

WAITING = (ExperimentState.READY, ExperimentState.QUEUED)


@dataclass
class Tries:
    """What was tried for one experiment since a person last asked for it."""

    since: float
    """First intent, in seconds since the epoch."""
    before: int = 0
    """Number of the last attempt before that."""
    unlaunched: int = 0
    """How many attempts could not be launched."""
    unlaunched_in_a_row: int = 0
    interruptions: int = 0
    intent_at: float = 0.0
    """Of the latest attempt, in seconds since the epoch."""
    waited: float = 0.0
    """Seconds between the intents of attempts and their starts."""
    fixes: list[FixRecord] = field(default_factory=list)

    def add(self, signature: str | None, started_at: float | None, ended_at: float | None) -> None:
        """The latest attempt ended so."""
        self.interruptions += signature in INTERRUPTED
        # What never ran, but not for a launch that failed, has only waited.
        began = started_at or (None if signature == LAUNCH_FAILED else ended_at)
        self.waited += max(0.0, (began or self.intent_at) - self.intent_at)
        failed_launch = signature in (LAUNCH_FAILED, QUEUE_FULL)
        self.unlaunched += failed_launch
        self.unlaunched_in_a_row = self.unlaunched_in_a_row + 1 if failed_launch else 0


class Batch:
    """The experiments of one stage, by what can happen to them next, and what is known of all the others.

    Args:
        ledger: where it is loaded from.
        home: where run dirs are.
        campaign: the spec.
        row: the round.
        stage: whose experiments may start; None: none at all.
        hosts: how fast they are.
    """

    def __init__(
        self, ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, stage: str | None, hosts: Hosts
    ) -> None:
        self._ledger = ledger
        self._home = home
        self._campaign = campaign
        self._row = row
        self._times = Times(campaign, hosts)
        self.stage = stage
        self.views: dict[str, ExperimentView] = {}
        """Of all stages: an attempt that runs holds a device, whatever stage it belongs to."""
        self.waiting: dict[str, ExperimentView] = {}
        """Ready or queued ones of the stage, in plan order."""
        self.retry_at: dict[str, float] = {}
        self._healed: dict[str, dict[str, Any]] = {}
        self._tries: dict[str, Tries] = {}
        self._before: dict[str, int] = {}
        """Last attempt before a person asked again, of those who were."""
        self._devices = max(campaign.resources.gpus, 1)
        self.leased: set[str] = set()
        """Tokens of the attempts that hold devices."""
        self.hours = 0.0
        """Device hours that all ended attempts of the campaign took."""

    def load(self) -> None:
        """Read everything again."""
        with Reader(self._ledger.url) as reader:
            views = queries.experiment_views(reader, self._row.id)
            columns = batches.retry_columns(reader, self._row.id)
            tried = batches.tried(reader, self._row.id)
            self.leased = batches.leased(reader, self._row.id)
            reopened = batches.reopened_at(reader, self._row.id)
            self.hours = batches.hours_used(reader, self._row.id, self._devices)
            self._times.load(reader, self._row.id)
        self.views = {v.exp_id: v for v in views}
        self.waiting = {v.exp_id: v for v in views if v.state in WAITING and self.mine(v.exp_id)}
        self.retry_at = {c["exp_id"]: c["retry_at"] for c in columns if c["retry_at"]}
        self._healed = {c["exp_id"]: c["healed"] for c in columns if c["healed"]}
        self._tries, self._before = {}, {}
        for row in tried:
            exp_id = row["exp_id"]
            if row["intent_at"] < reopened.get(exp_id, 0.0):
                self._before[exp_id] = row["attempt"]
                continue
            tries = self._tries.setdefault(exp_id, Tries(row["intent_at"], self._before.get(exp_id, 0)))
            tries.intent_at = row["intent_at"]
            if row["signature"]:
                tries.add(row["signature"], row["started_at"], row["ended_at"])
            if row["fix"]:
                tries.fixes.append(FixRecord(row["attempt"], row["signature"], row["fix"]))

    @property
    def closed(self) -> str:
        """Why nothing starts any more; empty if it may."""
        return f"the campaign is {self._row.status}" if CampaignStatus(self._row.status).ended else ""

    def open_attempts(self) -> list[dict[str, Any]]:
        """Attempts of the campaign that are not over, oldest first."""
        with Reader(self._ledger.url) as reader:
            return batches.open_attempts(reader, self._row.id)

    def mine(self, exp_id: str) -> bool:
        """Whether an experiment belongs to the stage."""
        return self.views[exp_id].stage == self.stage

    def healed(self, exp_id: str, attempt: int) -> dict[str, Any] | None:
        """The attempt as a fix changed it, as stored; None if it is to run as planned."""
        stored = self._healed.get(exp_id)
        return stored if stored and stored["attempt"] == attempt else None

    def expected_seconds(self, exp_id: str) -> float | None:
        """How long its next attempt is expected to take on the reference host; None if nobody knows."""
        view = self.views[exp_id]
        return self._times.expected(view, self.healed(exp_id, view.attempt + 1))

    def fixes(self, exp_id: str) -> list[FixRecord]:
        """What was tried, oldest first."""
        return self._tries[exp_id].fixes if exp_id in self._tries else []

    def rules(self, spec: AttemptSpec) -> RetryRules:
        """Whether and how an attempt that is under way may be followed by another."""
        policy, row, following = self._campaign.policy, self._row, spec.attempt + 1
        full = self.views[spec.exp_id].stage == self._campaign.full.name
        tries = self._tries[spec.exp_id]
        return RetryRules(
            retries=policy.full_retries if full else policy.pilot_retries,
            tried=spec.attempt - tries.before - tries.unlaunched - tries.interruptions,
            first_attempt_at=tries.since + tries.waited,
            intent_at=tries.intent_at,
            next_token=token(row.name, row.round, spec.exp_id, following),
            next_run_dir=str(run_dir_of(self._home, row.name, row.round, spec.exp_id, following)),
            launch_failures=tries.unlaunched_in_a_row,
            interruptions=tries.interruptions,
            healed=self.healed(spec.exp_id, spec.attempt) is not None,
            closed=self.closed and f"not tried again: {self.closed}",
        )

    def launching(self, spec: AttemptSpec, *, adopted: bool = False) -> None:
        """An attempt is under way, and was so before if it is `adopted`."""
        self.waiting.pop(spec.exp_id, None)
        self.retry_at.pop(spec.exp_id, None)
        now = self._ledger.clock()
        tries = self._tries.setdefault(spec.exp_id, Tries(now, self._before.get(spec.exp_id, 0)))
        tries.intent_at = tries.intent_at if adopted else now
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
        busy = outcome.ended_at - outcome.started_at if outcome.started_at else 0.0
        self.hours += max(0.0, busy) / 3600 * self._devices  # as `hours_used` will count it
        self._times.ended(view, spec, outcome)
        tries = self._tries[spec.exp_id]
        if outcome.diagnosis:
            tries.add(outcome.diagnosis.signature, outcome.started_at, outcome.ended_at)
        if outcome.move.new != ExperimentState.QUEUED:
            return
        if self.mine(spec.exp_id):
            self.waiting[spec.exp_id] = view
        self.retry_at[spec.exp_id] = values.get("retry_at", 0.0)
        if "healed" in values:
            self._healed[spec.exp_id] = values["healed"]
        if outcome.fix and outcome.diagnosis:
            tries.fixes.append(FixRecord(spec.attempt, outcome.diagnosis.signature, outcome.fix))

    def called_off(self, exp_id: str, state: ExperimentState, why: str) -> Move:
        """A waiting experiment will not be launched; returns the move to record."""
        view = self.waiting.pop(exp_id)
        self.views[exp_id] = replace(view, state=state)
        return Move(exp_id, ExperimentState(view.state), state, why)

    def due(self, now: float, most: int) -> list[str]:
        """Up to `most` of the waiting that may start now, most wanted first."""
        return list(islice((e for e in self.waiting if self.retry_at.get(e, 0.0) <= now), most))

    def history(self) -> list[ExperimentView]:
        """Experiments of the stage with their results so far."""
        return [v for v in self.views.values() if v.stage == self.stage]
