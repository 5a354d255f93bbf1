"""GPUs that are kept for the first demands that have to wait, so that smaller ones cannot pass them for ever.

Everybody behind such a demand may still start on these GPUs if it will have ended before the demand can start, or if
it fits beside it (EASY backfilling); where nobody knows when that is, those of the same age may too. Newer ones cannot,
however many come: what runs on the kept GPUs ends, nobody takes its place, and the choice only changes for GPUs that
come free earlier.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefect_campaign.placement.demand import Demand
from prefect_campaign.placement.order import age
from prefect_campaign.placement.room import GpuRoom, HostRoom, needed_mb

LATE_SECONDS = 4 * 3600.0
"""Who should have ended so long ago may take any time. Much sooner GPUs would be lost to those who would pass."""


@dataclass
class Kept:
    """The GPUs that one demand waits for."""

    demand: Demand
    host: HostRoom
    at: float
    """When it is expected to start; infinite where one of those before it may end at any time."""
    slack: dict[str, int] = field(default_factory=dict)
    """UUID of each kept GPU -> MiB that others may lease beyond that moment; -1: none."""

    def allows(self, gpu: GpuRoom, demand: Demand, now: float) -> bool:
        """Whether the demand may get that GPU of the host in spite of the one that waits for it."""
        slack = self.slack.get(gpu.uuid)
        if slack is None or self._ends_before(demand, now):
            return True
        if self.at == math.inf and age(demand) <= age(self.demand):
            # To leave GPUs idle for nobody knows how long costs more than to let it be passed by those of its own age:
            # they come to an end, those that join the queue later may not.
            return True
        return demand.vram_mb is not None and demand.vram_mb <= slack

    def take(self, gpus: Sequence[GpuRoom], demand: Demand, now: float) -> None:
        """The demand got these GPUs of the host."""
        if demand.vram_mb is None or self._ends_before(demand, now):
            return
        for gpu in gpus:
            if gpu.uuid in self.slack:
                self.slack[gpu.uuid] -= demand.vram_mb

    def _ends_before(self, demand: Demand, now: float) -> bool:
        return demand.seconds is not None and self.at < math.inf and now + demand.seconds * self.host.factor <= self.at


class Keeper:
    """Keeps GPUs: always for the first that has to wait; on other hosts for the next ones, if it is known until when.

    Args:
        hosts: what is left.
        now: seconds since the epoch.
    """

    def __init__(self, hosts: Sequence[HostRoom], now: float) -> None:
        self.kept: dict[str, Kept] = {}
        """By host."""
        self._hosts = hosts
        self._now = now
        self._hopeless: list[tuple[int, int]] = []
        self._tries = 2 * len(hosts)

    def keep(self, demand: Demand) -> None:
        """Keep GPUs for a demand that found none, unless it is too late in the queue or could not use any."""
        if self.kept and (self._tries <= 0 or len(self.kept) == len(self._hosts)):
            return
        need = needed_mb(demand.vram_mb)
        if any(gpus <= demand.gpus and mb <= need for gpus, mb in self._hopeless):
            return
        if not any(host.could_ever(demand.gpus, need) for host in self._hosts):
            return
        self._tries -= bool(self.kept)
        kept = keep([h for h in self._hosts if h.name not in self.kept], demand, self._now)
        if kept is None:
            # Whoever wants at least as much finds nothing either.
            if not self.kept and not demand.avoid and demand.vram_mb is not None:
                self._hopeless.append((demand.gpus, need))
        elif not self.kept or kept.at < math.inf:
            self.kept[kept.host.name] = kept


@dataclass(frozen=True)
class _Coming:
    """When a GPU is expected to take the demand, and what is free on it by then."""

    gpu: GpuRoom
    at: float


def keep(hosts: Sequence[HostRoom], demand: Demand, now: float) -> Kept | None:
    """The GPUs on which the demand can start soonest, once the leases on them have ended.

    Returns:
        None if no host would have room even then: people use its GPUs, and nobody knows for how long.
    """
    choices = [(key, host, gpus) for host in hosts if (found := _on(host, demand, now)) for key, gpus in [found]]
    if not choices:
        return None
    (unknown, at, *_), host, coming = min(choices, key=lambda c: c[0])
    at = math.inf if unknown else at
    share = host.share and demand.vram_mb is not None
    kept = Kept(demand, host, at)
    need = needed_mb(demand.vram_mb)
    for place, one in enumerate(coming):
        beside = share and place < demand.gpus
        kept.slack[one.gpu.uuid] = (
            _free_at(one.gpu, max(one.at, at) if not unknown else one.at, now) - need if beside else -1
        )
    return kept


def _on(host: HostRoom, demand: Demand, now: float) -> tuple[tuple[float, ...], list[_Coming]] | None:
    """How good the host is for it (less is better), and the GPUs: first its own, then those to be left free."""
    if host.problem or (host.name, "*") in demand.avoid or len(host.gpus) - host.keep < demand.gpus:
        return None
    need = needed_mb(demand.vram_mb)
    coming = [
        _Coming(gpu, at)
        for gpu in host.gpus
        if (host.name, gpu.uuid) not in demand.avoid
        and (at := _takes_at(gpu, need, whole=demand.vram_mb is None, share=host.share, now=now)) is not None
    ]
    if len(coming) < demand.gpus:
        return None
    coming.sort(key=lambda c: (c.at, c.gpu.foreign, c.gpu.total, c.gpu.index))
    chosen = coming[: demand.gpus]
    if host.keep:
        own = {c.gpu.uuid for c in chosen}
        empty = [_Coming(g, max((end for end, _, _ in g.ends), default=now)) for g in host.gpus if g.uuid not in own]
        chosen += sorted(empty, key=lambda c: (c.at, -c.gpu.index))[: host.keep]
    unknown = sum(c.at == math.inf for c in chosen)
    latest = max(max((c.at for c in chosen if c.at < math.inf), default=now), now)
    return (unknown, latest, -sum(c.at <= now for c in chosen), host.factor, host.order), chosen


def _takes_at(gpu: GpuRoom, need: int, *, whole: bool, share: bool, now: float) -> float | None:
    """When enough leases will have ended, infinite if nobody knows when; None if not even then."""
    if whole and gpu.foreign:
        return None
    free, left, exclusive = gpu.free, gpu.leases, gpu.exclusive
    at = now
    for end, mb, alone in sorted((_end(end, now), mb, alone) for end, mb, alone in gpu.ends):
        if free >= need and (not left or (share and not whole and not exclusive)):
            break
        free, left, exclusive, at = free + mb, left - 1, exclusive - alone, max(at, end)
    return at if free >= need else None


def _free_at(gpu: GpuRoom, at: float, now: float) -> int:
    return gpu.free + sum(mb for end, mb, _ in gpu.ends if _end(end, now) <= at)


def _end(until: float, now: float) -> float:
    """When a lease will end; nobody knows when that is late by much: GPUs are not kept idle for what may hang."""
    return until if until > now - LATE_SECONDS else math.inf
