"""What of the waiting starts next and where, and what of it is not worth running or not paid for any more."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from prefect_campaign.decide.compare import is_baseline
from prefect_campaign.decide.early_stop import groups_to_stop
from prefect_campaign.engine.attempts import first_spec, spec_from
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.process import git_state
from prefect_campaign.ledger import batches, gates, leases
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import Intent, Move, record_intents
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.placement.demand import Assignment, Demand, Rules
from prefect_campaign.placement.place import place

OFFERED = 64
"""So many of the experiments that wait for GPUs are tried to be placed at once."""


class Planner:
    """Chooses among the waiting experiments of one batch."""

    def __init__(
        self, ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, hosts: Hosts, batch: Batch
    ) -> None:
        self.waits = ""
        """Why some that could start did not, at the last placement; for people."""
        self._ledger = ledger
        self._hosts = hosts
        self._rules = rules_of(campaign)
        self._never: dict[str, str] = {}
        self._avoid: dict[str, frozenset[tuple[str, str]]] = {}
        self._home = home
        self._campaign = campaign
        self._row = row
        self._batch = batch
        self._commit, _ = git_state(campaign.workdir)
        with ledger.read() as connection:
            approval = gates.question(connection, row.id, row.plan_hash)
        self._approved_hours = approval.budget_hours if approval else None

    @property
    def wants_gpus(self) -> bool:
        """Whether its experiments are placed on GPUs."""
        return self._campaign.resources.gpus > 0

    def room(self, busy: int) -> int:
        """How many more experiments are worth placing while so many are under way."""
        limit = self._campaign.policy.max_parallel
        # Of many that wait for GPUs some are placed in vain: that gives people the reason.
        room = OFFERED if self.wants_gpus else sum(v.slots for v in self._hosts.views) - busy
        return max(0, room if limit is None else min(room, limit - busy))

    def avoid(self, exp_id: str, host: str, device: str) -> None:
        """Never again place an experiment there, while this dispatcher lives."""
        self._avoid[exp_id] = self._avoid.get(exp_id, frozenset()) | {(host, device)}

    def fits_elsewhere(self, spec: AttemptSpec) -> bool:
        """Whether an attempt that has GPUs already could be placed on others now."""
        avoid = self._avoid.get(spec.exp_id, frozenset()) | {(spec.host, gpu) for gpu in spec.gpus}
        demand = Demand(spec.exp_id, gpus=len(spec.gpus), vram_mb=spec.vram_mb, avoid=avoid)
        with self._ledger.read() as connection:
            taken = leases.held(connection, [v.host for v in self._hosts.views])
        held = self._hosts.held(taken)
        found = place([demand], self._hosts.views, held, self._rules, self._ledger.clock(), self._hosts.extra)
        return bool(found.assignments)

    def place(self, connection: Connection, due: Sequence[str], now: float) -> list[Intent]:
        """Devices for what is due; read and taken in one transaction, so that nobody else's lease can come between.

        Raises:
            Stale: an experiment or a device was taken meanwhile.
        """
        leases.lock(connection)
        taken = leases.held(connection, [v.host for v in self._hosts.views])
        demands = [self._demand(e) for e in due]
        placement = place(demands, self._hosts.views, self._hosts.held(taken), self._rules, now, self._hosts.extra)
        self.waits = placement.waits
        # A host that cannot be seen now may be the one that has room.
        seen = all(not v.problem for v in self._hosts.views)
        self._never = {e: placement.reasons[e] for e in placement.never} if seen else {}
        intents = [self._intent(self._batch.waiting[a.exp_id], a) for a in placement.assignments]
        record_intents(connection, self._row.id, intents, now=now)
        if self._campaign.sweep.optuna_search:
            batches.record_params(connection, self._row.id, [i.spec for i in intents])
        return intents

    def call_off(self, *, early_stop: bool) -> dict[str, list[Move]]:
        """Who decides -> what of the waiting is not worth running any more, or not paid for.

        Args:
            early_stop: whether there are new results by which a group may turn out to be hopeless.
        """
        off = {
            "early stop": self._hopeless() if early_stop else [],
            "budget": self._unpaid(),
            "placement": self._nowhere(),
        }
        return {who: moves for who, moves in off.items() if moves}

    def _demand(self, exp_id: str) -> Demand:
        wanted = self._campaign.resources
        return Demand(
            exp_id,
            gpus=wanted.gpus,
            vram_mb=wanted.vram_mb if isinstance(wanted.vram_mb, int) else None,
            waiting_since=self._batch.waiting[exp_id].updated_at,
            seconds=wanted.expected_minutes * 60 if wanted.expected_minutes else None,
            avoid=self._avoid.get(exp_id, frozenset()),
        )

    def _intent(self, view: ExperimentView, place: Assignment) -> Intent:
        attempt = view.attempt + 1
        healed = self._batch.healed(view.exp_id, attempt)
        if healed:
            spec = spec_from(healed)
        else:
            history = self._batch.history() if self._campaign.sweep.optuna_search else []
            spec = first_spec(self._campaign, self._row.round, self._home, view, attempt, history)
        gpus = place.devices if self.wants_gpus else ()
        vram = self._demand(view.exp_id).vram_mb
        spec = replace(spec, host=place.host, gpus=gpus, vram_mb=vram)
        return Intent(
            spec,
            ExperimentState(view.state),
            self._hosts.launcher(place.host),
            place.host,
            place.devices,
            shared=self._rules.share and vram is not None,
            vram_source="user" if vram is not None else None,
            git_commit=self._commit,
        )

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

    def _nowhere(self) -> list[Move]:
        """Those that no machine can ever run: waiting for that would be waiting for ever."""
        never, self._never = self._never, {}
        return [
            self._batch.called_off(e, ExperimentState.ON_HOLD, why)
            for e, why in never.items()
            if e in self._batch.waiting
        ]

    def _unpaid(self) -> list[Move]:
        limits = (self._campaign.policy.budget.hours, self._approved_hours)
        hours = min((h for h in limits if h is not None), default=None)
        if hours is None or self._batch.hours < hours:
            return []
        why = f"the budget of {hours:g} h is used up"
        return [self._batch.called_off(e, ExperimentState.ON_HOLD, why) for e in list(self._batch.waiting)]


def rules_of(campaign: Campaign) -> Rules:
    """How the campaign wants GPUs to be used."""
    wanted = campaign.policy.gpus
    return Rules(
        share=wanted.share,
        reserve=frozenset(map(str, wanted.reserve)),
        keep_free=wanted.keep_free,
        avoid=tuple(wanted.avoid),
    )
