"""What of the waiting starts next and where, and what of it is not worth running or not paid for any more."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from prefect_campaign.decide.compare import is_baseline
from prefect_campaign.decide.early_stop import groups_to_stop
from prefect_campaign.decide.vram import USER, Estimate, Shape
from prefect_campaign.engine.attempts import first_spec, spec_from
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.durations import wall_asked
from prefect_campaign.engine.hosts import FRESH_SECONDS, Hosts
from prefect_campaign.engine.origin import Origin
from prefect_campaign.engine.others import Others
from prefect_campaign.engine.preflight import busy, tenants
from prefect_campaign.engine.probe_waits import ProbeWaits
from prefect_campaign.engine.probing import Prober
from prefect_campaign.engine.vram import Vram
from prefect_campaign.ledger import batches, campaigns, gates, leases
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import Intent, Move, record_intents
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.model.text import wording
from prefect_campaign.placement.demand import Assignment, Demand, Rules, needed_mb
from prefect_campaign.placement.place import place
from prefect_campaign.placement.room import HostRoom, rooms, unmatched

OFFERED = 64
"""So many of the experiments that wait for GPUs are tried to be placed at once."""
TELL_SECONDS = 5.0
"""How often people are told anew why experiments wait, at most, if only a number is another."""


class Planner:
    """Chooses among the waiting experiments of one batch."""

    def __init__(
        self,
        ledger: Ledger,
        home: Home,
        campaign: Campaign,
        row: CampaignRow,
        hosts: Hosts,
        batch: Batch,
        vram: Vram,
        prober: Prober,
    ) -> None:
        self._vram = vram
        self._prober = prober
        self.waits = ""
        """Why some that could start did not, at the last placement; for people."""
        self._ledger = ledger
        self._hosts = hosts
        self._rules = rules_of(campaign)
        self._probes = ProbeWaits(row.id, campaign.resources, vram, prober, share=self._rules.share)
        self._others = Others(row.id, hosts, gpus=campaign.resources.gpus > 0)
        self._never: dict[str, str] = {}
        self._told_waits: tuple[str | None, float] = None, 0.0
        self._moved: set[str] = set()
        """Those that left a busy GPU for a free one: they are not to be put on a busy one again."""
        self._home = home
        self._campaign = campaign
        self._row = row
        self._batch = batch
        self.origin = Origin(campaign.workdir, ledger.clock)
        """The commit that attempts record."""
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
        cpus = self._campaign.resources.cpus or 1
        slots = sum(v.slots // v.width(cpus) for v in self._hosts.views if v.queue or not self.wants_gpus)
        room = max(0, slots - busy) + (OFFERED if self.wants_gpus else 0)
        return max(0, room if limit is None else min(room, limit - busy))

    def again(self, now: float, *, running: bool) -> list[float]:
        """When to try again to place what waits, if nothing ends before; seconds since the epoch."""
        if not self._batch.waiting or (running and not self.wants_gpus):
            return []
        # Other people's processes come and go on GPUs; another campaign's leases of slots are looked at soon again.
        return [now + (FRESH_SECONDS if self.wants_gpus else 1.0)]

    def fits_elsewhere(self, spec: AttemptSpec) -> bool:
        """Whether an attempt whose GPUs are busy could be placed now on others that are not."""
        with self._ledger.read() as connection:
            taken = leases.held(connection, [v.host for v in self._hosts.views])
        held = self._hosts.held(taken)
        avoid = self._occupied(taken) | {(spec.host, gpu) for gpu in spec.gpus}
        demand = Demand(spec.exp_id, gpus=len(spec.gpus), vram_mb=spec.vram_mb, avoid=avoid)
        found = place([demand], self._hosts.views, held, self._rules, self._ledger.clock(), self._hosts.extra)
        if found.assignments:
            self._moved.add(spec.exp_id)
        return bool(found.assignments)

    def _occupied(self, taken: Sequence[leases.Lease]) -> frozenset[tuple[str, str]]:
        """(host, UUID) of the GPUs that a last look before a launch would find busy."""
        return frozenset(
            (view.host, gpu.uuid)
            for view in self._hosts.views
            for gpu in view.gpus
            if busy(gpu, tenants(taken, view.host, gpu.uuid))
        )

    def place(self, connection: Connection, due: Sequence[str], now: float) -> list[Intent]:
        """Devices for what is due, within a transaction that holds the lock of the leases.

        Raises:
            Stale: an experiment or a device was taken meanwhile.
        """
        self.origin.refresh()
        taken = leases.held(connection, [v.host for v in self._hosts.views])
        held = self._hosts.held(taken)
        left = rooms(self._hosts.views, held, self._rules, self._hosts.extra) if self.wants_gpus else []
        # A model that is avoided need not be here; a GPU that is reserved must be.
        typos = unmatched(replace(self._rules, avoid=()), self._hosts.views) if self.wants_gpus else []
        if typos:  # who protects a GPU by a name that is none must not find it in use
            known = ", ".join(view.host for view in self._hosts.views)
            why = f"policy.gpus.{typos[0]} means no GPU and no host here; hosts are named {known}"
            self._never = dict.fromkeys(self._batch.waiting, why)
            return []
        probed, waiting = self._probed_first(due)
        if self._campaign.resources.probe:
            self._probes.read(connection, self._batch.waiting)
        slots = max((v.width(self._campaign.resources.cpus or 1) for v in self._hosts.views), default=1)
        wanted = {e: self._demand(e, left, slots, probed=e in probed) for e in due if e not in waiting}
        moved = self._moved & set(wanted)
        occupied = self._occupied(taken) if moved or probed else frozenset()
        for exp_id in moved:
            wanted[exp_id] = replace(wanted[exp_id][0], avoid=wanted[exp_id][0].avoid | occupied), wanted[exp_id][1]
        for exp_id, shape in probed.items():
            wanted[exp_id] = self._probes.demand(wanted[exp_id][0], shape, left, occupied, now), wanted[exp_id][1]
        own = [demand for demand, _ in wanted.values()]
        demands = [*self._others.demands(connection, own, now), *own]
        rules = replace(self._rules, avoid=(*self._rules.avoid, *self._hosts.failed))
        placement = place(demands, self._hosts.views, held, rules, now, self._hosts.extra)
        probing = f"{len(waiting)} wait for a probe of their memory" if waiting else ""
        first = next((e for e in wanted if e in placement.reasons), None) if self.wants_gpus or slots > 1 else None
        why = f"{first} {placement.reasons[first]}" if first else ""
        self.waits = "; ".join(filter(None, (placement.waits, probing, why)))
        # A host that cannot be seen now may be the one that has room.
        seen = all(v.host in self._hosts.failed or not (v.problem or v.gpu_problem) for v in self._hosts.views)
        self._never = {e: placement.reasons[e] for e in placement.never if e in wanted} if seen else {}
        self._tell_waits(connection, now)
        got = [a for a in placement.assignments if a.exp_id in wanted]
        intents = [
            self._intent(self._batch.waiting[a.exp_id], a, *wanted[a.exp_id]) for a in got if a.exp_id not in probed
        ]
        placed = {a.exp_id for a in got}
        self._others.tell(connection, [d for d in own if d.exp_id not in placed | set(self._never)], now)
        record_intents(connection, self._row.id, intents, now=now)
        if self._campaign.sweep.optuna_search:
            batches.record_params(connection, self._row.id, [i.spec for i in intents])
        memory = {e: wanted[e][0].vram_mb for e in probed}
        self._probes.begin(connection, probed, self._batch.waiting, memory, placement, now)
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

    def _tell_waits(self, connection: Connection, now: float) -> None:
        """Let people know why experiments wait, but not every time that a number in it changes."""
        told, at = self._told_waits
        other = wording(self.waits) != wording(told or "")
        if self.waits != told and (other or now - at >= TELL_SECONDS):
            campaigns.tell_waits(connection, self._row.id, self.waits)
            self._told_waits = self.waits, now

    def _probed_first(self, due: Sequence[str]) -> tuple[dict[str, Shape], set[str]]:
        """Those that give their place to a probe of their shape, and those that wait for its end."""
        if all(v.queue for v in self._hosts.views):
            return {}, set()
        first: dict[Shape, str] = {}
        waiting = set()
        for exp_id, shape in self._vram.unprobed(self._batch.waiting[e] for e in due).items():
            if self._prober.runs(shape) or shape in first:
                waiting.add(exp_id)
            else:
                first[shape] = exp_id
        return {exp_id: shape for shape, exp_id in first.items()}, waiting

    def _demand(self, exp_id: str, left: Sequence[HostRoom], slots: int, *, probed: bool) -> tuple[Demand, str | None]:
        """What it wants, and whose word its memory is; `_probes` says how much a probe gets."""
        wanted, view = self._campaign.resources, self._batch.waiting[exp_id]
        seconds = self._batch.expected_seconds(exp_id)
        demand = Demand(exp_id, gpus=wanted.gpus, waiting_since=view.updated_at, seconds=seconds, slots=slots)
        if not self.wants_gpus:
            return demand, None
        known = self._vram.estimate(view)
        vram, least = (None, known.least_mb) if probed else self._memory(known, left)
        small = {(v.host, g.uuid) for v in self._hosts.views for g in v.gpus if 0 < g.total_mb < least}
        return replace(demand, vram_mb=vram, avoid=frozenset(small)), known.source

    def _memory(self, known: Estimate, left: Sequence[HostRoom]) -> tuple[int | None, int]:
        """MiB to lease of each GPU, None for all of it; and MiB that it must have in all."""
        if known.vram_mb is None or known.source == USER:
            return known.vram_mb, known.least_mb
        need, gpus = needed_mb(known.vram_mb), self._campaign.resources.gpus
        if not any(host.could_ever(gpus, need) for host in left if not (host.problem or host.queue)):
            # It takes nearly all of the GPU where it was measured: there it gets one of its own.
            return None, known.least_mb
        # Alone on a GPU anyway: then it is kept away from those on which somebody else computes, too.
        return (known.vram_mb, 0) if self._rules.share else (None, need)

    def _intent(self, view: ExperimentView, place: Assignment, demand: Demand, source: str | None) -> Intent:
        attempt = view.attempt + 1
        healed = self._batch.healed(view.exp_id, attempt)
        if healed:
            spec = spec_from(healed)
        else:
            history = self._batch.history() if self._campaign.sweep.optuna_search else []
            spec = first_spec(self._campaign, self._row.round, self._home, view, attempt, history)
        if self._hosts.queue(place.host):  # it gives whole GPUs
            demand, source = replace(demand, vram_mb=None), None
        gpus = place.devices if self.wants_gpus and not self._hosts.queue(place.host) else ()
        wall = wall_asked(self._campaign, spec, demand.seconds, self._hosts.factor(place.host))
        spec = replace(spec, host=place.host, gpus=gpus, vram_mb=demand.vram_mb, wall_minutes=wall)
        return Intent(
            spec,
            ExperimentState(view.state),
            self._hosts.launcher(place.host),
            place.host,
            place.devices,
            shared=self._rules.share and demand.vram_mb is not None,
            until=self._expected_end(place.host, demand.seconds),
            vram_source=source,
            git_commit=self.origin.name,
        )

    def _expected_end(self, host: str, seconds: float | None) -> float | None:
        return None if seconds is None else self._ledger.clock() + seconds * self._hosts.factor(host)

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
        if self._hosts.hopeless:
            never = dict.fromkeys(self._batch.waiting, self._hosts.hopeless)
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
