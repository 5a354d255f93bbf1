"""What of the waiting starts next and where, and what of it is not worth running or not paid for any more."""

from collections.abc import Sequence

from sqlalchemy import Connection

from prefect_campaign.decide.compare import is_baseline
from prefect_campaign.decide.early_stop import groups_to_stop
from prefect_campaign.engine.attempts import first_spec, spec_from
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.process import git_state, hostname
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import batches, gates
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import Intent, Move, record_intents
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.placement.slots import Demand, devices_of, place


class Planner:
    """Chooses among the waiting experiments of one batch."""

    def __init__(
        self, ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, launcher: Launcher, batch: Batch
    ) -> None:
        self.devices = devices_of(campaign.policy.max_parallel or launcher.slots)
        self.waits = ""
        """Why some that could start did not, at the last placement; for people."""
        self._home = home
        self._campaign = campaign
        self._row = row
        self._launcher = launcher.name
        self._batch = batch
        self._commit, _ = git_state(campaign.workdir)
        with ledger.read() as connection:
            approval = gates.question(connection, row.id, row.plan_hash)
        self._approved_hours = approval.budget_hours if approval else None

    def place(self, connection: Connection, due: Sequence[Demand], now: float) -> list[Intent]:
        """Devices for what is due; read and taken in one transaction, so that nobody else's lease can come between.

        Raises:
            Stale: an experiment or a device was taken meanwhile.
        """
        leased = batches.leased_devices(connection, hostname())
        placement = place(due, self.devices, leased, now)
        self.waits = placement.waits
        intents = [self._intent(self._batch.waiting[a.exp_id], a.device) for a in placement.assignments]
        record_intents(connection, self._row.id, intents, now=now)
        if self._campaign.sweep.optuna_search:
            batches.record_params(connection, self._row.id, [i.spec for i in intents])
        return intents

    def call_off(self, *, early_stop: bool) -> dict[str, list[Move]]:
        """Who decides -> what of the waiting is not worth running any more, or not paid for.

        Args:
            early_stop: whether there are new results by which a group may turn out to be hopeless.
        """
        off = {"early stop": self._hopeless() if early_stop else [], "budget": self._unpaid()}
        return {who: moves for who, moves in off.items() if moves}

    def _intent(self, view: ExperimentView, device: str) -> Intent:
        attempt = view.attempt + 1
        healed = self._batch.healed(view.exp_id, attempt)
        if healed:
            spec = spec_from(healed)
        else:
            history = self._batch.history() if self._campaign.sweep.optuna_search else []
            spec = first_spec(self._campaign, self._row.round, self._home, view, attempt, history)
        return Intent(spec, ExperimentState(view.state), self._launcher, hostname(), device, self._commit)

    def _hopeless(self) -> list[Move]:
        if self._batch.stage != self._campaign.full.name or not self._batch.waiting:
            return []
        if not any(is_baseline(name) for name in self._campaign.groups):
            return []
        stopped = groups_to_stop(self._campaign, self._batch.history())
        return [
            self._batch.called_off(e, ExperimentState.CANCELLED, why)
            for e, why in stopped.items()
            if e in self._batch.waiting
        ]

    def _unpaid(self) -> list[Move]:
        limits = (self._campaign.policy.budget.hours, self._approved_hours)
        hours = min((h for h in limits if h is not None), default=None)
        if hours is None or self._batch.hours < hours:
            return []
        why = f"the budget of {hours:g} h is used up"
        return [self._batch.called_off(e, ExperimentState.ON_HOLD, why) for e in list(self._batch.waiting)]
