"""Probes that find no GPU to run on: on how little they run in the end, and what people hear and say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from prefect_campaign.decide.vram import Shape
from prefect_campaign.engine.preflight import ALERT_SECONDS
from prefect_campaign.engine.probe import Placed
from prefect_campaign.engine.probing import Prober
from prefect_campaign.engine.vram import Vram
from prefect_campaign.ledger import alerts
from prefect_campaign.ledger.alerts import ANYWAY, SKIP, Asked
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Resources
from prefect_campaign.placement.demand import Demand, Placement
from prefect_campaign.placement.room import HostRoom

SYNDROME = "probe_waits"
LEAST_MB = 2048
"""With less free memory even a small run shows nothing but that it fails."""


@dataclass
class _Wait:
    exp_id: str
    attempt: int
    since: float


class ProbeWaits:
    """The shapes of one campaign whose probes wait for GPUs.

    In every round first `read`, then `demand` for each probe that could start, and then `begin`.

    Args:
        campaign_id: the round's row.
        resources: what its experiments ask for.
        vram: knows which shapes are to be probed.
        prober: runs the probes.
        share: whether they may share GPUs.
    """

    def __init__(self, campaign_id: int, resources: Resources, vram: Vram, prober: Prober, *, share: bool) -> None:
        self._vram = vram
        self._prober = prober
        self._campaign_id = campaign_id
        self._resources = resources
        self._share = share
        self._waits: dict[Shape, _Wait] = {}
        self._asked: dict[tuple[str, int], Asked] = {}

    def read(self, connection: Connection, views: Mapping[str, ExperimentView]) -> None:
        """Take in what people were asked, perhaps by the process before this one, and what they have answered.

        Args:
            connection: the transaction in which GPUs are given out.
            views: of all that wait, whether they could start in this round or not.
        """
        self._asked = alerts.asked(connection, self._campaign_id, syndrome=SYNDROME)
        lacking = self._vram.unprobed(views[e] for e, n in self._asked if e in views and views[e].attempt + 1 == n)
        for (exp_id, attempt), question in self._asked.items():
            if exp_id in lacking:
                wait = _Wait(exp_id, attempt, question.since - ALERT_SECONDS)
                self._waits.setdefault(lacking[exp_id], wait)
            else:  # its memory is known by now, or it is not to run
                self._settle(connection, exp_id, attempt, "continue")

    def demand(
        self, demand: Demand, shape: Shape, left: Sequence[HostRoom], occupied: frozenset[tuple[str, str]], now: float
    ) -> Demand:
        """What a probe asks for where its experiment asks for `demand`.

        Args:
            demand: the experiment's.
            shape: the experiment's.
            left: the hosts.
            occupied: GPUs on which others compute.
            now: seconds since the epoch.
        """
        avoid = demand.avoid | {(host.name, "*") for host in left if host.queue}  # they show no memory
        among_others = avoid if self._answer(shape) == ANYWAY else avoid | occupied
        vram = self._memory(shape, left, among_others, now)
        return replace(demand, vram_mb=vram, avoid=avoid if vram is None else among_others)

    def begin(
        self,
        connection: Connection,
        probed: Mapping[str, Shape],
        views: Mapping[str, ExperimentView],
        memory: Mapping[str, int | None],
        placement: Placement,
        now: float,
    ) -> None:
        """Begin the probes that got GPUs; of the others people may hear why not, and may say that none is needed.

        Shapes that were not offered in this round wait on.

        Args:
            connection: the transaction in which the GPUs were given out.
            probed: exp_id -> shape.
            views: of all that wait.
            memory: exp_id -> MiB of each GPU that it asked for; None: all of it.
            placement: who got what, and why the others did not.
            now: seconds since the epoch.

        Raises:
            Stale: a GPU was taken meanwhile; none is begun.
        """
        got = {a.exp_id: a for a in placement.assignments}
        placed, over = list[Placed](), dict[Shape, str]()
        for exp_id, shape in probed.items():
            view, answer = views[exp_id], self._answer(shape)
            if exp_id in got:
                shared = self._share and memory[exp_id] is not None
                placed.append(Placed(view, shape, got[exp_id], memory[exp_id], shared, answer == ANYWAY))
                over[shape] = "start"
            elif answer == SKIP:
                self._prober.skip(connection, view, shape, now)
                over[shape] = "skip"
            else:
                self._still_waits(connection, shape, view, views, placement.reasons[exp_id], now)
        self._prober.begin(connection, placed, now)
        for shape, effect in over.items():
            wait = self._waits.pop(shape, None)
            if wait:
                self._settle(connection, wait.exp_id, wait.attempt, effect)

    def _memory(
        self, shape: Shape, left: Sequence[HostRoom], avoid: frozenset[tuple[str, str]], now: float
    ) -> int | None:
        """MiB of each GPU that a probe is to get; None: a whole one.

        The user's own number, if there is one. Without it a whole GPU is waited for, for a while; then it is all that
        is free where most is, if sharing is allowed or a person says so.
        """
        if self._resources.declared_mb is not None:
            return self._resources.declared_mb
        wait = self._waits.get(shape)
        if wait is None or now - wait.since < ALERT_SECONDS:
            return None
        if not self._share and self._answer(shape) != ANYWAY:
            return None
        most = max((host.most_for(self._resources.gpus, avoid) for host in left), default=0)
        return most * 5 // 6 if most >= LEAST_MB else None

    def _still_waits(
        self,
        connection: Connection,
        shape: Shape,
        view: ExperimentView,
        views: Mapping[str, ExperimentView],
        why: str,
        now: float,
    ) -> None:
        wait = self._waits.setdefault(shape, _Wait(view.exp_id, view.attempt + 1, now))
        if wait.exp_id not in views or views[wait.exp_id].attempt + 1 != wait.attempt:
            # Whoever it stood for does not wait any more.
            wait.exp_id, wait.attempt = view.exp_id, view.attempt + 1
        if (wait.exp_id, wait.attempt) not in self._asked and now - wait.since >= ALERT_SECONDS:
            message = f"{wait.exp_id}: the probe of its memory {why}"
            key = self._campaign_id, wait.exp_id, wait.attempt
            alerts.raise_alert(connection, *key, syndrome=SYNDROME, message=message, choices=(ANYWAY, SKIP), now=now)

    def _answer(self, shape: Shape) -> str | None:
        wait = self._waits.get(shape)
        question = self._asked.get((wait.exp_id, wait.attempt)) if wait else None
        return question.answer if question else None

    def _settle(self, connection: Connection, exp_id: str, attempt: int, effect: str) -> None:
        alerts.settle(connection, self._campaign_id, exp_id, attempt, syndrome=SYNDROME, effect=effect)
