"""Campaigns that want several GPUs or slots at once: each leaves room for those whose turn is before its own."""

from collections.abc import Sequence

from sqlalchemy import Connection

from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.ledger import waits
from prefect_campaign.ledger.waits import Wait
from prefect_campaign.placement.demand import AGE_SECONDS, Demand

OTHERS = "another campaign's "
"""No exp_id has a space in it."""


class Others:
    """What one campaign hears of the others, and tells them.

    Args:
        campaign_id: the round's row.
        hosts: its machines.
        gpus: whether its experiments want GPUs; else slots.
    """

    def __init__(self, campaign_id: int, hosts: Hosts, *, gpus: bool) -> None:
        self._campaign_id = campaign_id
        self._hosts = hosts
        self._gpus = gpus
        self._told = False

    def demands(self, connection: Connection, own: Sequence[Demand], now: float) -> list[Demand]:
        """Several GPUs or slots that others wait for: in the queue like our own, but theirs to take.

        Of two campaigns that want several only one leaves room for the other, or both would wait for ever.
        """
        told = waits.of_others(connection, self._campaign_id, [v.host for v in self._hosts.views], now=now)
        mine = self._longest(own)
        return [
            Demand(
                f"{OTHERS}{n}",
                w.gpus,
                w.vram_mb,
                waiting_since=w.since,
                slots=w.slots,
                avoid=frozenset((v.host, "*") for v in self._hosts.views if v.host not in w.hosts),
                others=True,
            )
            for n, w in enumerate(told)
            if bool(w.gpus) == self._gpus and (mine is None or _turn(w) < _turn(mine))
        ]

    def tell(self, connection: Connection, waiting: Sequence[Demand], now: float) -> None:
        """Let others leave room for what waits longest here, if it needs several GPUs or slots at once."""
        wait = self._longest(waiting)
        if wait is None and not self._told:
            return
        waits.tell(connection, self._campaign_id, wait, now=now)
        self._told = wait is not None

    def _longest(self, own: Sequence[Demand]) -> Wait | None:
        """Who of those that want several GPUs or slots at once waits longest."""
        first = min((d for d in own if (d.gpus or d.slots) > 1), key=lambda d: d.waiting_since, default=None)
        if first is None:
            return None
        hosts = [v.host for v in self._hosts.views if not v.problem and (v.host, "*") not in first.avoid]
        return Wait(self._campaign_id, first.exp_id, first.gpus, first.slots, first.vram_mb, hosts, first.waiting_since)


def _turn(wait: Wait) -> tuple[float, int, float, int]:
    """Whose turn it is first, the same for all campaigns: by age and size, as in placement."""
    return wait.since // AGE_SECONDS, -(wait.gpus or wait.slots), wait.since, wait.campaign_id
