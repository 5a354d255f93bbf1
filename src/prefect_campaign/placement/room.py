"""What is left on each host: its GPUs and slots, less what is used, leased, reserved or avoided."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.errors import Refused
from prefect_campaign.placement.demand import Demand, Held, Rules, needed_mb
from prefect_campaign.placement.gpu_room import GpuRoom, Wish


class HostRoom:
    """One host, the GPUs of it that may be used, and its slots; changes with every assignment."""

    def __init__(
        self,
        view: HostView,
        order: int,
        held: Mapping[str, Sequence[Held]],
        taken: frozenset[str],
        rules: Rules,
        extra: Mapping[tuple[str, str], int],
        twice: Mapping[str, str],
    ) -> None:
        self.name = view.host
        self.order = order
        self.factor = view.factor
        self.share = rules.share
        self.queue = view.queue
        self.away = view.problem or ("avoided" if view.host in rules.avoid else "")
        """Why nothing can be placed there."""
        self.problem = self.away or view.gpu_problem
        """Why none of its GPUs can be used."""
        self.avoided = view.host in rules.avoid
        self.keep = max(rules.keep_free, view.keep_free, 0)
        self.gpus: list[GpuRoom] = []
        self.closed: Counter[str] = Counter()
        """Why the other GPUs are not used -> how many."""
        self.sizes: list[int] = []
        """Memory of the GPUs that may be used one day, those with a problem too, from the largest."""
        for gpu in view.gpus:
            why = _closed(gpu, view, rules, twice)
            if why:
                self.closed[why] += 1
            elif gpu.problem or gpu.mig or gpu.total_mb <= 0:
                # What to do about it is told where its host is shown; here it is one of several in brackets.
                why = gpu.problem.partition("; ")[0] or ("MIG is on" if gpu.mig else "memory cannot be read")
                self.closed[why] += 1
                self.sizes.append(gpu.total_mb or 2**62)
            else:
                self.sizes.append(gpu.total_mb)
                if not self.problem:
                    leases = held.get(gpu.uuid, ())
                    self.gpus.append(GpuRoom(gpu, leases, extra.get((view.host, gpu.uuid), 0)))
        self.sizes.sort(reverse=True)
        self.unread = bool(view.problem or view.gpu_problem) and not view.gpus
        """Nobody knows what it has."""
        self.slots = max(view.slots, 0)
        self.cores = view.cores
        """Whether they are its processors."""
        # A queue may take fewer jobs than it did; then those that it has are in any slots.
        self.slots_taken = len(taken) if self.queue else sum(f"slot-{i}" in taken for i in range(self.slots))
        self._taken = set(taken)
        self._next_slot = 0
        self.leased = sum(g.leases for g in self.gpus)
        self.busy = sum(g.leases > 0 for g in self.gpus)
        self.foreign = sum(g.foreign for g in self.gpus)
        self.count()

    def count(self) -> None:
        """To be called after every change of a GPU: load, and what is quickly known to fit."""
        self.load = (self.leased + self.foreign) / max(len(self.gpus), 1)
        self.most_free = sorted(
            (g.free for g in self.gpus if not g.leases or (self.share and not g.exclusive)), reverse=True
        )

    @property
    def may_open(self) -> int:
        """How many of its GPUs without a lease may still get one."""
        return len(self.gpus) - self.keep - self.busy

    def could_ever(self, gpus: int, need: int) -> bool:
        """Whether that many GPUs with that much memory would fit if everything were free and in order."""
        if self.avoided:
            return False
        if self.queue:
            return True  # if it takes no jobs now, it will again
        if not gpus:
            return self.slots > 0 or self.unread
        if self.unread:
            return True
        return len(self.sizes) - self.keep >= gpus and self.sizes[gpus - 1] >= need

    def most_for(self, gpus: int, avoid: frozenset[tuple[str, str]]) -> int:
        """MiB that are free on each of so many GPUs, at most, for one that shares them and must not get some."""
        if self.problem or self.queue:
            return 0
        may = [g for g in self.gpus if g.takes(0, False, self.share)]
        may = [g for g in may if avoid.isdisjoint(((self.name, g.uuid), (self.name, "*")))]
        may.sort(key=lambda g: -g.free)
        if self.keep:
            surplus = {g.uuid for g in [g for g in may if not g.leases][max(self.may_open, 0) :]}
            may = [g for g in may if g.uuid not in surplus]
        return may[gpus - 1].free if len(may) >= gpus else 0

    def width(self, demand: Demand) -> int:
        """How many of its slots a demand without GPUs takes: all of them if it wants more."""
        return max(1, min(demand.slots, self.slots)) if self.cores or (demand.others and not self.queue) else 1

    def take_slots(self, demand: Demand) -> tuple[str, ...] | None:
        """The lowest free slots, which are taken thereby; None if there are too few outside `Demand.avoid`."""
        width, avoid = self.width(demand), demand.avoid
        if self.slots - self.slots_taken < width:
            return None
        found: list[str] = []
        for i in range(self._next_slot, self.slots):
            slot = f"slot-{i}"
            if slot not in self._taken and (not avoid or (self.name, slot) not in avoid):
                found.append(slot)
                if len(found) == width:
                    self._taken.update(found)
                    self.slots_taken += width
                    # Those below are taken, unless somebody just avoided them.
                    self._next_slot = self._next_slot if avoid else i + 1
                    return tuple(found)
        return None

    def wish(self, demand: Demand) -> Wish:
        """What the demand wants of each GPU here."""
        alone = not self.share or demand.vram_mb is None
        seconds = math.inf if demand.seconds is None else demand.seconds * self.factor
        return Wish(demand, needed_mb(demand.vram_mb), alone, seconds)

    def take(self, demand: Demand, gpus: Sequence[GpuRoom], now: float) -> None:
        """The demand gets these GPUs."""
        wish = self.wish(demand)
        for gpu in gpus:
            self.busy += not gpu.leases
            gpu.lease(demand.vram_mb, now + wish.seconds, wish.alone)
        self.leased += len(gpus)
        self.count()


def rooms(
    hosts: Sequence[HostView], held: Sequence[Held], rules: Rules, extra: Mapping[tuple[str, str], int]
) -> list[HostRoom]:
    """What is left, host by host.

    A GPU's UUID is the same wherever it is seen from, so a lease counts whatever name its campaign has for the host,
    and a GPU that is seen under two hosts is used under the first alone.

    Raises:
        Refused: two hosts have the same name.
    """
    names = Counter(view.host for view in hosts)
    double = [name for name, count in names.items() if count > 1]
    if double:
        raise Refused(f"hosts: {count_of(names[double[0]], 'host')} called {double[0]!r}; give each a name of its own")
    leases: defaultdict[str, list[Held]] = defaultdict(list)
    taken: defaultdict[str, set[str]] = defaultdict(set)
    for lease in held:
        if lease.device.startswith("slot-"):
            taken[lease.host].add(lease.device)
        else:
            leases[lease.device].append(lease)
    found = []
    seen: dict[str, str] = {}
    for order, view in enumerate(hosts):
        found.append(HostRoom(view, order, leases, frozenset(taken[view.host]), rules, extra, seen))
        seen |= {gpu.uuid: view.host for gpu in view.gpus if not gpu.missing}  # it may have been moved
    return found


def unmatched(rules: Rules, hosts: Sequence[HostView]) -> list[str]:
    """Entries of ``reserve`` and ``avoid`` that mean no GPU and no host that is seen: a typing error, perhaps.

    Says nothing while a host has a problem: it may be there that they belong.
    """
    if any(view.problem or view.gpu_problem for view in hosts):
        return []
    pairs = [(gpu, view) for view in hosts for gpu in view.gpus]
    lost = [f"reserve: {e}" for e in sorted(rules.reserve) if not any(is_reserved(g, v, {e}) for g, v in pairs)]
    names = {view.host for view in hosts}
    return lost + [
        f"avoid: {e}" for e in rules.avoid if e not in names and not any(_is_avoided(g, v, (e,)) for g, v in pairs)
    ]


def count_of(count: int, noun: str) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _closed(gpu: Gpu, view: HostView, rules: Rules, twice: Mapping[str, str]) -> str:
    """Why a rule forbids it; empty if none does."""
    if is_reserved(gpu, view, rules.reserve) or is_reserved(gpu, view, view.reserve):
        return "reserved"
    if rules.avoid and _is_avoided(gpu, view, rules.avoid):
        return "avoided"
    if gpu.uuid in twice:
        return f"the same as on {twice[gpu.uuid]}"
    return ""


def is_reserved(gpu: Gpu, view: HostView, reserve: frozenset[str] | set[str]) -> bool:
    """Whether one of these entries means the GPU."""
    if not reserve:
        return False
    index = str(gpu.named)
    return not reserve.isdisjoint((index, gpu.uuid, f"{view.host}:{index}", f"{view.host}:{gpu.uuid}"))


def _is_avoided(gpu: Gpu, view: HostView, avoid: Sequence[str]) -> bool:
    exact = (view.host, f"{view.host}:{gpu.named}", gpu.uuid)
    name = gpu.name.lower()
    return any(entry in exact or fnmatchcase(name, entry.lower()) for entry in avoid)
