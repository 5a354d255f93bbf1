"""Probes that find no GPU to run on: on how little they run in the end, and what people hear and say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from prefect_campaign.decide.vram import Shape
from prefect_campaign.engine.preflight import ALERT_SECONDS
from prefect_campaign.engine.probe import Placed
from prefect_campaign.engine.probing import Prober
from prefect_campaign.ledger import alerts
from prefect_campaign.ledger.alerts import ANYWAY, SKIP
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Resources
from prefect_campaign.placement.demand import Placement
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

    Args:
        campaign_id: the round's row.
        resources: what its experiments ask for.
        prober: runs the probes.
        share: whether they may share GPUs.
    """

    def __init__(self, campaign_id: int, resources: Resources, prober: Prober, *, share: bool) -> None:
        self._prober = prober
        self._campaign_id = campaign_id
        self._resources = resources
        self._share = share
        self._waits: dict[Shape, _Wait] = {}

    def memory(self, connection: Connection, shape: Shape, left: Sequence[HostRoom], now: float) -> int | None:
        """MiB of each GPU that a probe is to get; None: a whole one.

        The user's own number, if there is one. Without it a whole GPU is waited for, for a while; then it is all that
        is free where most is, if sharing is allowed or a person says so.
        """
        if self._resources.declared_mb is not None:
            return self._resources.declared_mb
        wait, width = self._waits.get(shape), self._resources.gpus
        if wait is None or now - wait.since < ALERT_SECONDS:
            return None
        if not self._share and not self.anyway(connection, shape):
            return None
        free = [h.most_free[width - 1] for h in left if not h.problem and not h.queue and len(h.most_free) >= width]
        most = max(free, default=0)
        return most * 5 // 6 if most >= LEAST_MB else None

    def anyway(self, connection: Connection, shape: Shape) -> bool:
        """Whether a person wants it to start beside whoever is there."""
        return self._answer(connection, shape) == ANYWAY

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

        Args:
            connection: the transaction in which the GPUs were given out.
            probed: exp_id -> shape.
            views: of all that wait.
            memory: exp_id -> what `memory` said.
            placement: who got what, and why the others did not.
            now: seconds since the epoch.

        Raises:
            Stale: a GPU was taken meanwhile; none is begun.
        """
        got = {a.exp_id: a for a in placement.assignments}
        waiting, placed, skipped = set[Shape](), list[Placed](), set[Shape]()
        for exp_id, shape in probed.items():
            view = views[exp_id]
            if exp_id in got:
                shared = self._share and memory[exp_id] is not None
                anyway = self.anyway(connection, shape)
                placed.append(Placed(view, shape, got[exp_id], memory[exp_id], shared, anyway))
            elif self._answer(connection, shape) == SKIP:
                self._prober.skip(connection, view, shape, now)
                skipped.add(shape)
            else:
                waiting.add(shape)
                self._still_waits(connection, shape, view, placement.reasons[exp_id], now)
        for shape in set(self._waits) - waiting:
            effect = "skip" if shape in skipped else "start"
            alerts.settle(connection, *self._key(self._waits.pop(shape)), syndrome=SYNDROME, effect=effect)
        self._prober.begin(connection, placed, now)

    def _still_waits(self, connection: Connection, shape: Shape, view: ExperimentView, why: str, now: float) -> None:
        wait = self._waits.setdefault(shape, _Wait(view.exp_id, view.attempt + 1, now))
        asked_at = alerts.asked_at(connection, *self._key(wait), syndrome=SYNDROME)
        if asked_at is not None:  # perhaps by the process before this one
            wait.since = min(wait.since, asked_at - ALERT_SECONDS)
        elif now - wait.since >= ALERT_SECONDS:
            message = f"{wait.exp_id}: the probe of its memory {why}"
            choices = (ANYWAY, SKIP)
            alerts.raise_alert(
                connection, *self._key(wait), syndrome=SYNDROME, message=message, choices=choices, now=now
            )

    def _answer(self, connection: Connection, shape: Shape) -> str | None:
        wait = self._waits.get(shape)
        return alerts.answer_of(connection, *self._key(wait), syndrome=SYNDROME) if wait else None

    def _key(self, wait: _Wait) -> tuple[int, str, int]:
        return self._campaign_id, wait.exp_id, wait.attempt
