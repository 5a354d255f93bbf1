"""Who runs where: demands x hosts x leases -> assignments, as a pure function.

A queue's scheduler has GPUs of its own: what fits nowhere else is handed to it, as long as it has a slot left.
An empty GPU is taken before one with somebody else's processes, the least loaded host before the others, the faster
one among equals. With `Rules.share` and more demands than GPUs, the fullest GPU that still fits is taken first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from prefect_campaign.model.devices import HostView
from prefect_campaign.placement.demand import Assignment, Demand, Held, Placement, Rules, needed_mb
from prefect_campaign.placement.gpu_room import GpuRoom
from prefect_campaign.placement.order import order
from prefect_campaign.placement.reasons import Reasons, Shape, summary
from prefect_campaign.placement.reserve import Keeper
from prefect_campaign.placement.room import HostRoom, rooms

LATE_SECONDS = 4 * 3600.0
"""Who should have ended so long ago may take any time. Much sooner GPUs would be lost to those who would pass."""
NOTHING_MORE: Mapping[tuple[str, str], int] = MappingProxyType({})


def place(
    demands: Sequence[Demand],
    hosts: Sequence[HostView],
    held: Sequence[Held],
    rules: Rules,
    now: float,
    extra: Mapping[tuple[str, str], int] = NOTHING_MORE,
) -> Placement:
    """Give devices to as many demands as the rules allow.

    They are looked at by age, then by size, then as given (`order`). GPUs and slots are kept for the first ones that
    have to wait, so that none is passed over for ever; who cannot run at all keeps none.

    Args:
        demands: who wants to start, most wanted first; of two with one id the first counts.
        hosts: what is seen now.
        held: all leases, also those of other campaigns.
        rules: what this campaign may use.
        now: seconds since the epoch.
        extra: (host, UUID) -> MiB that other people's processes have shown beyond what they use now.

    Raises:
        Refused: two hosts have the same name.
    """
    left = rooms(hosts, [_dated(lease, now) for lease in held], rules, extra)
    due: list[Demand] = []
    later: dict[str, Demand] = {}
    known: set[str] = set()
    for demand in demands:
        if demand.exp_id in known:
            continue
        known.add(demand.exp_id)
        if demand.not_before > now:
            later[demand.exp_id] = demand
        else:
            due.append(demand)
    due.sort(key=order([size for host in left for size in host.sizes], rules, due))
    assignments, waiting, kept = _assign(due, left, now)
    if not waiting and not later:
        return Placement(tuple(assignments), {}, "")
    shapes: dict[str, Shape] = {}
    cache: dict[tuple[object, ...], Shape] = {}
    for demand in waiting:
        key = (demand.gpus, demand.slots, demand.vram_mb, demand.avoid)
        shape = cache.get(key)
        if shape is None:
            shape = cache[key] = Shape(demand, left)
        shape.count += 1
        shapes[demand.exp_id] = shape
    never = frozenset(exp_id for exp_id, shape in shapes.items() if shape.never)
    reasons = Reasons(shapes, later, left, kept, now)
    return Placement(tuple(assignments), reasons, summary(list(cache.values()), len(later), left), never)


def _assign(
    due: Sequence[Demand], left: Sequence[HostRoom], now: float
) -> tuple[list[Assignment], list[Demand], dict[str, str]]:
    """Whoever fits, in that order; who waits; and for whom GPUs or slots are kept on which host."""
    found: list[Assignment] = []
    waiting: list[Demand] = []
    keeper = Keeper(left, now)
    slots = _Slots(left)
    packed = sum(d.gpus for d in due) > sum(not g.leases for host in left for g in host.gpus)
    for demand in due:
        if not demand.gpus:
            taken = slots.take(demand)
            if taken is None:
                waiting.append(demand)
                slots.keep(demand)
            else:
                found.append(taken)
            continue
        choice = _seek(demand, left, packed, now)
        if choice is None:
            queued = slots.take(demand, queues_only=True)
            if queued is not None:
                found.append(queued)
                continue
            waiting.append(demand)
            keeper.keep(demand)
            continue
        host, gpus = choice
        host.take(demand, gpus, now)
        found.append(Assignment(demand.exp_id, host.name, tuple(g.uuid for g in gpus)))
    return found, waiting, keeper.kept | slots.kept


def _seek(demand: Demand, left: Sequence[HostRoom], packed: bool, now: float) -> tuple[HostRoom, list[GpuRoom]] | None:
    """The best host that has all its GPUs, and which."""
    width, need = demand.gpus, needed_mb(demand.vram_mb)
    fitting = [h for h in left if len(h.most_free) >= width and h.most_free[width - 1] >= need]
    if len(fitting) > 1:
        fitting.sort(key=lambda h: (h.load, h.factor))
    best: tuple[int, HostRoom, list[GpuRoom]] | None = None
    for host in fitting:
        gpus = _on(host, demand, need, packed, now)
        if gpus is None:
            continue
        foreign = sum(g.foreign for g in gpus) if host.foreign else 0
        if not foreign:
            return host, gpus
        if best is None or foreign < best[0]:
            best = (foreign, host, gpus)
    return best[1:] if best else None


def _on(host: HostRoom, demand: Demand, need: int, packed: bool, now: float) -> list[GpuRoom] | None:
    """Its GPUs on that host, in the order of their index; None if there are too few."""
    whole, share, width = demand.vram_mb is None, host.share, demand.gpus
    gpus = [g for g in host.gpus if g.takes(need, whole, share)]
    if demand.avoid:
        gpus = [g for g in gpus if demand.avoid.isdisjoint(((host.name, g.uuid), (host.name, "*")))]
    if any(g.bookings for g in gpus):
        wish = host.wish(demand)
        gpus = [g for g in gpus if g.allows(wish, now)]
    if len(gpus) < width:
        return None
    if packed and share:
        gpus.sort(key=lambda g: (g.foreign, g.free))
    else:
        gpus.sort(key=lambda g: (g.foreign, g.leases, g.total))
    if host.keep:
        may_open = host.may_open
        empty = [g for g in gpus if not g.leases]
        surplus = {g.uuid for g in empty[max(may_open, 0) :]}
        gpus = [g for g in gpus if g.uuid not in surplus]
        if len(gpus) < width:
            return None
    return sorted(gpus[:width], key=lambda g: g.index)


def _dated(lease: Held, now: float) -> Held:
    """The lease; where it is late by much, nobody knows its end any more: GPUs are not kept idle for what may hang."""
    late = lease.until is not None and lease.until <= now - LATE_SECONDS
    return replace(lease, until=None) if late else lease


class _Slots:
    """Free slots of the hosts, from the least loaded host; where there are too few in all later, of queues last.

    Who needs several gets them all at once. For the first one that has to wait, those of the host where fewest are
    missing are kept as they come free: those of its age may pass it, newer ones cannot, however many come.
    """

    def __init__(self, left: Sequence[HostRoom]) -> None:
        self.kept: dict[str, str] = {}
        """exp_id -> host."""
        self._left = left
        self._hosts = [h for h in left if not h.away and h.slots > h.slots_taken]
        self._keeps: tuple[HostRoom, float] | None = None

    def take(self, demand: Demand, *, queues_only: bool = False) -> Assignment | None:
        """Slots for it; None if no host has as many as it needs and may get."""
        hosts = [h for h in self._hosts if h.queue] if queues_only else self._hosts
        if len(hosts) > 1:
            want = demand.slots
            hosts = sorted(
                hosts, key=lambda h: (h.queue, h.cores and h.slots < want, h.slots_taken / h.slots, h.factor)
            )
        for host in hosts:
            if demand.avoid and (host.name, "*") in demand.avoid:
                continue
            if self._keeps and host is self._keeps[0] and demand.age > self._keeps[1]:
                continue
            slots = host.take_slots(demand)
            if slots is None:
                continue
            if host.slots_taken == host.slots:
                self._hosts.remove(host)
            return Assignment(demand.exp_id, host.name, slots)
        return None

    def keep(self, demand: Demand) -> None:
        """Let newer ones not take the slots that come free for a demand that needs several, if it is the first."""
        if self._keeps or demand.slots == 1:
            return
        may = [h for h in self._left if not (h.away or h.queue) and h.width(demand) > 1]
        may = [h for h in may if (h.name, "*") not in demand.avoid]
        host = min(may, key=lambda h: h.width(demand) + h.slots_taken - h.slots, default=None)
        if host:
            self._keeps = host, demand.age
            self.kept[demand.exp_id] = host.name
