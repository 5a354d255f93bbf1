"""Why experiments wait, for people: host by host, with numbers. Worked out only when somebody reads it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prefect_campaign.placement.demand import Demand, needed_mb
from prefect_campaign.placement.room import HostRoom, count_of

MOST_HOSTS = 8
MOST_SHAPES = 3


class Shape:
    """Demands that wait and want the same; one explanation serves all of them."""

    def __init__(self, demand: Demand, left: Sequence[HostRoom]) -> None:
        self.demand = demand
        self.count = 0
        self.need = needed_mb(demand.vram_mb)
        self.never = bool(left) and not any(h.could_ever(demand.gpus, self.need) for h in left)
        self.slots = max((h.width(demand) for h in left), default=demand.slots)
        """At most on any host."""
        self.text = ""

    @property
    def wish(self) -> str:
        """What it needs, in words."""
        if not self.demand.gpus:
            return "a free slot" if self.slots == 1 else f"{self.slots} free slots"
        if self.demand.vram_mb is None:
            return count_of(self.demand.gpus, "whole GPU")
        return f"{count_of(self.demand.gpus, 'GPU')} with {gb(self.need)} free"


class Reasons(Mapping[str, str]):
    """exp_id -> why it waits, or why it can never run."""

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        later: Mapping[str, Demand],
        left: Sequence[HostRoom],
        kept: Mapping[str, str],
        now: float,
    ) -> None:
        self._shapes = shapes
        self._later = later
        self._left = left
        self._kept = kept
        self._now = now

    def __getitem__(self, exp_id: str) -> str:
        shape = self._shapes.get(exp_id)
        if shape is None:
            return f"waits: its retry may start in {self._later[exp_id].not_before - self._now:.0f} s"
        if not shape.text:
            shape.text = _never(shape, self._left) if shape.never else _waits(shape, self._left, self._kept)
        mine = self._kept.get(exp_id)
        what = "GPUs" if shape.demand.gpus else "slots"
        return f"{shape.text}; {what} of {mine} are kept for it" if mine else shape.text

    def __iter__(self) -> Iterator[str]:
        yield from self._shapes
        yield from self._later

    def __len__(self) -> int:
        return len(self._shapes) + len(self._later)


def summary(shapes: Sequence[Shape], later: int, left: Sequence[HostRoom]) -> str:
    """One line about all that wait."""
    waiting = [s for s in shapes if not s.never]
    never = sum(s.count for s in shapes if s.never)
    total = sum(s.count for s in shapes) + later
    counts: Counter[str] = Counter()
    for shape in waiting:
        counts[_brief(shape, left)] += shape.count
    parts = [f"{count} for {wish}" for wish, count in counts.most_common(MOST_SHAPES)]
    if len(counts) > MOST_SHAPES:
        parts.append(f"{sum(counts.values()) - sum(c for _, c in counts.most_common(MOST_SHAPES))} for other GPUs")
    if later:
        parts.append(f"{later} for the back-off of a retry")
    if never:
        parts.append(f"{never} can never run")
    return f"{total} wait: " + ", ".join(parts) if parts else ""


def gb(mib: int) -> str:
    """MiB as GB for people, one decimal at most."""
    return f"{mib / 1024:.1f}".removesuffix(".0") + " GB"


def _brief(shape: Shape, left: Sequence[HostRoom]) -> str:
    if shape.demand.gpus:
        return shape.wish
    able = [host for host in left if not host.away]
    if left and not able:
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        return f"{left[0].name} ({left[0].away}{more})"
    slots, taken = sum(h.slots for h in able), sum(h.slots_taken for h in able)
    return f"{shape.wish} ({slots} in all, {taken} leased)"


def _waits(shape: Shape, left: Sequence[HostRoom], kept: Mapping[str, str]) -> str:
    if not left:
        return f"waits: needs {shape.wish}; no host is known"
    alike: dict[str, list[str]] = {}
    for host in left:
        alike.setdefault(_on(shape, host, kept), []).append(host.name)
    told = [f"{_names(hosts)}: {why}" for why, hosts in list(alike.items())[:MOST_HOSTS]]
    if len(alike) > MOST_HOSTS:
        told.append(f"and {sum(map(len, list(alike.values())[MOST_HOSTS:]))} more hosts")
    return f"waits: needs {shape.wish}; " + "; ".join(told)


def _names(hosts: Sequence[str]) -> str:
    """Hosts of which the same is to be said."""
    shown = ", ".join(hosts[:MOST_HOSTS])
    return f"{shown} and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else shown


def _on(shape: Shape, host: HostRoom, kept: Mapping[str, str]) -> str:
    """What the host has for it now."""
    demand = shape.demand
    problem = host.problem if demand.gpus else host.away
    if problem:  # it often names its host itself
        return re.sub(rf"^(host )?{re.escape(host.name)}( \([^()]*\))?: ", "", problem, count=1)
    if (host.name, "*") in demand.avoid:
        return "not for this experiment"
    if host.queue:
        return f"has its {count_of(host.slots, 'job')}" if host.slots else "takes no jobs"
    first = next((exp_id for exp_id, name in kept.items() if name == host.name), None)
    if not demand.gpus:
        return _slots_of(host, demand, first)
    whole = demand.vram_mb is None
    why: Counter[str] = Counter()
    fit = empty = most = 0
    for gpu in host.gpus:
        if (host.name, gpu.uuid) in demand.avoid:
            why["not for this experiment"] += 1
        elif gpu.takes(shape.need, whole, host.share):
            fit += 1
            empty += not gpu.leases
        elif gpu.leases and (whole or not host.share or gpu.exclusive):
            why["leased"] += 1
        elif gpu.free < shape.need:
            why["with too little free"] += 1
            most = max(most, gpu.free)
        else:
            why["used by others"] += 1
    back = max(0, empty - max(0, host.may_open)) if host.keep else 0
    if back:
        fit -= back
        why["kept free for people"] += back
    why.update(host.closed)
    if fit >= demand.gpus and first:
        return f"{fit} free, kept for {first}, which goes first"
    if most:
        why[f"with at most {gb(most)} free"] = why.pop("with too little free")
    found = f"{fit or 'none'} of {count_of(len(host.gpus) + host.closed.total(), 'GPU')}"
    return f"{found} ({', '.join(f'{n} {text}' for text, n in why.items())})" if why else found


def _slots_of(host: HostRoom, demand: Demand, first: str | None) -> str:
    """What slots it has."""
    free = host.slots - host.slots_taken
    if not host.slots:
        return "no slots"
    if not free:
        return f"all {count_of(host.slots, 'slot')} leased"
    if free >= host.width(demand) and first:
        return f"{free} of {count_of(host.slots, 'slot')} free, kept for {first}, which goes first"
    return f"{free} of {count_of(host.slots, 'slot')} free"


def _never(shape: Shape, left: Sequence[HostRoom]) -> str:
    """Which limit it breaks, with the most that there is."""
    width = shape.demand.gpus
    if not width:
        return "can never run: no host has slots for experiments without GPUs"
    open_hosts = [h for h in left if not h.avoided]
    most = max((len(h.sizes) - h.keep for h in open_hosts), default=0)
    if most <= 0:
        text = f"needs {count_of(width, 'GPU')}, and there is none that may be used"
    elif most < width:
        text = f"needs {count_of(width, 'GPU')} on one host, the most is {most}"
    else:
        largest = max(h.sizes[width - 1] for h in open_hosts if len(h.sizes) - h.keep >= width)
        text = f"needs {shape.wish} on one host, the most there is {gb(largest)} each"
    return f"can never run: {text}{_set_aside(left)}"


def _set_aside(left: Sequence[HostRoom]) -> str:
    """What rules take away, since that is what a person can change."""
    found = []
    for host in left[:MOST_HOSTS]:
        taken = [f"{n} {why}" for why, n in host.closed.items()]
        if host.keep:
            taken.append(f"{host.keep} kept free for people")
        if host.avoided:
            taken = ["avoided"]
        if taken:
            found.append(f"{host.name}: {', '.join(taken)}")
    return f" ({'; '.join(found)})" if found else ""
