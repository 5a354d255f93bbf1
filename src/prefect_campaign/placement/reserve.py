"""GPUs that are booked for demands that have to wait, so that those behind cannot pass them for ever.

The first ones that wait are booked on the GPUs on which they can start soonest, from when leases and earlier bookings
leave room. Everybody behind may still start now on these GPUs if it will have ended by then, or if it fits beside
(backfilling); where nobody knows when that is, those of the same age may too. Newer ones cannot, however many come:
what runs on the booked GPUs ends, nobody takes its place, and the choice only changes for GPUs that come free earlier.
"""

import math
from collections.abc import Sequence

from prefect_campaign.placement.demand import Demand, needed_mb
from prefect_campaign.placement.gpu_room import Booking, GpuRoom, Wish
from prefect_campaign.placement.room import HostRoom

MOST_BOOKED = 128
"""GPUs that are booked in all, each as often as it is booked: more of them take time and change little."""
PATIENCE_SECONDS = 24 * 3600.0
"""Who is first and has waited for so long is not passed by newer ones, even if they say that they will end in time."""

_Key = tuple[float, float, float, float, int]


class Keeper:
    """Books GPUs: always for the first that has to wait; for the next ones if it is known when they can start.

    Args:
        hosts: what is left.
        now: seconds since the epoch.
    """

    def __init__(self, hosts: Sequence[HostRoom], now: float) -> None:
        self.kept: dict[str, str] = {}
        """exp_id -> host, in the order of the queue."""
        self._hosts = hosts
        self._now = now
        self._left = MOST_BOOKED
        self._hopeless: list[tuple[int, int]] = []

    def keep(self, demand: Demand) -> None:
        """Book GPUs for a demand that found none, unless enough are booked or it could not use any."""
        need = needed_mb(demand.vram_mb)
        if self._left <= 0 or any(gpus <= demand.gpus and mb <= need for gpus, mb in self._hopeless):
            return
        if not any(host.could_ever(demand.gpus, need) for host in self._hosts):
            return
        best: tuple[_Key, HostRoom, Wish, list[tuple[float, GpuRoom]]] | None = None
        for host in self._hosts:
            wish = host.wish(demand)
            found = self._on(host, wish, math.inf if best is None else best[0][1])
            if found and (best is None or found[0] < best[0]):
                best = (found[0], host, wish, found[1])
        if best:
            self._book(*best)
        elif not self.kept and not demand.avoid and demand.vram_mb is not None:
            # Whoever wants at least as much finds nothing either.
            self._hopeless.append((demand.gpus, need))

    def _book(self, key: _Key, host: HostRoom, wish: Wish, coming: Sequence[tuple[float, GpuRoom]]) -> None:
        firm = not key[0]
        closed = not self.kept and self._now - wish.demand.waiting_since > PATIENCE_SECONDS
        for place, (own, gpu) in enumerate(coming):
            at = key[1] if firm else own
            if place >= wish.demand.gpus:  # to be left free for people when it starts
                wish = Wish(wish.demand, 0, alone=True, seconds=math.inf)
                at = key[1] if firm else math.inf
            gpu.book(Booking(wish, at, at + wish.seconds, firm, closed))
        self.kept[wish.demand.exp_id] = host.name
        self._left -= wish.demand.gpus

    def _on(self, host: HostRoom, wish: Wish, most: float) -> tuple[_Key, list[tuple[float, GpuRoom]]] | None:
        """How good the host is for it (less is better), and the GPUs: first its own, then those to be left free.

        None if it could only start after `most`, or never: people use the GPUs, and nobody knows for how long.
        """
        demand = wish.demand
        width = demand.gpus
        booked = any(g.bookings for g in host.gpus)
        if host.problem or len(host.gpus) - host.keep < width or (host.keep and booked):
            return None
        gpus = host.gpus
        if demand.avoid:
            gpus = [g for g in gpus if demand.avoid.isdisjoint(((host.name, g.uuid), (host.name, "*")))]
        start = self._now
        while True:
            coming = [(at, g) for g in gpus if (at := g.opens(wish, start)) is not None]
            if len(coming) < width:
                return None
            coming.sort(key=lambda c: (c[0], c[1].foreign, c[1].total, c[1].index))
            latest = coming[width - 1][0]
            if latest == math.inf:
                if self.kept:
                    return None
                break
            if latest > most:
                return None
            if latest == start or not booked:
                break
            # Some may take it earlier and not then, because they are booked for others.
            start = latest
        chosen = coming[:width]
        if host.keep:
            own = {g.uuid for _, g in chosen}
            empty = [(max((end for end, _, _ in g.ends), default=self._now), g) for g in host.gpus if g.uuid not in own]
            chosen += sorted(empty, key=lambda c: (c[0], -c[1].index))[: host.keep]
        unknown = sum(at == math.inf for at, _ in chosen)
        known = max(max((at for at, _ in chosen if at < math.inf), default=self._now), self._now)
        return (unknown, known, -sum(at <= self._now for at, _ in chosen), host.factor, host.order), chosen
