"""What is left on one GPU: now, and from then on as leases end and those for whom it is booked start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_campaign.model.devices import Gpu
from prefect_campaign.placement.demand import Demand, Held

HIDDEN_MB = 1024
"""What driver and display may use on an empty GPU without a process that shows it; or 1/32 of a big one's memory."""


@dataclass(frozen=True, eq=False)
class Wish:
    """What a demand wants of each GPU of one host."""

    demand: Demand
    need: int
    """MiB that must be free when it starts."""
    alone: bool
    """Nobody beside it: it wants the whole GPU, or GPUs are not shared."""
    seconds: float
    """On that host; infinite if unknown."""

    @property
    def vram(self) -> int:
        """MiB that it leases; 0 for a whole GPU."""
        return self.demand.vram_mb or 0


@dataclass(frozen=True, eq=False)
class Booking:
    """A GPU that is booked for one who waits."""

    wish: Wish
    at: float
    """When the GPU is expected to take it; infinite if nobody knows."""
    until: float
    firm: bool
    """Whether it is known when all its GPUs will take it."""
    closed: bool
    """It has waited for so long that nobody who came later may pass."""


class GpuRoom:
    """One GPU that may be used, and what is still free on it; changes with every assignment and booking."""

    __slots__ = (
        "_starts",
        "_steps",
        "bookings",
        "ends",
        "exclusive",
        "foreign",
        "free",
        "index",
        "leases",
        "total",
        "uuid",
    )

    def __init__(self, gpu: Gpu, held: Sequence[Held], extra: int) -> None:
        self.uuid = gpu.uuid
        self.index = gpu.index
        self.total = gpu.total_mb
        self.free = gpu.total_mb - gpu.used_mb - max(extra, 0)
        self.leases = len(held)
        self.exclusive = 0
        """Leases that allow nobody beside them."""
        self.foreign = _foreign(gpu, bool(held))
        self.ends: list[tuple[float, int, bool]] = []
        """Of each lease: expected end (infinite if unknown), memory that comes free then, whether exclusive."""
        self.bookings: list[Booking] = []
        """In the order in which they were made."""
        self._steps: list[tuple[float, float, int, int, int]] = []
        self._starts: list[tuple[Booking, int]] = []
        for lease in held:
            vram = lease.vram_mb or 0
            alone = lease.vram_mb is None or not lease.shared
            self.free -= max(0, vram - lease.seen_mb)
            self.exclusive += alone
            self.ends.append((math.inf if lease.until is None else lease.until, max(vram, lease.seen_mb), alone))

    def lease(self, vram_mb: int | None, until: float, alone: bool) -> None:
        """Somebody gets it, or `vram_mb` of it."""
        self.free -= vram_mb or 0
        self.leases += 1
        self.exclusive += alone
        self.ends.append((until, vram_mb or 0, alone))
        self._steps = []

    def takes(self, need: int, whole: bool, share: bool) -> bool:
        """Whether one with that need may start on it now, bookings apart."""
        if self.leases and (whole or not share or self.exclusive):
            return False
        return self.free >= need and not (whole and self.foreign)

    def allows(self, wish: Wish, now: float) -> bool:
        """Whether it may start now in spite of those for whom the GPU is booked."""
        end = now + wish.seconds
        self._look_ahead()
        for booking, spare in self._starts:
            newer = wish.demand.age > booking.wish.demand.age
            if not booking.firm and not newer:
                # To leave GPUs idle for nobody knows how long costs more than to let it be passed by those of its own
                # age: they come to an end, those that join the queue later may not.
                continue
            if (newer and booking.closed) or booking.at == math.inf:
                return False
            if end > booking.at and (wish.alone or spare < wish.vram):
                return False
        return True

    def opens(self, wish: Wish, after: float) -> float | None:
        """The first moment from `after` on when it can start; infinite if nobody knows; None if not even then."""
        if wish.demand.vram_mb is None and self.foreign:
            return None
        self._look_ahead()
        need, alone = wish.need, wish.alone
        for moment, until, free, left, exclusive in self._steps:
            if until > after and free >= need and not (left and (alone or exclusive)):
                at = moment if moment > after else after
                if not self._starts or self._leaves_room(wish, at):
                    return at
        return None

    def book(self, booking: Booking) -> None:
        """Somebody is to start on it later."""
        self.bookings.append(booking)
        self._steps = []

    def _leaves_room(self, wish: Wish, at: float) -> bool:
        """Whether all that are booked for later can start although it is there from then on."""
        end = at + wish.seconds
        for booking, spare in self._starts:
            start = booking.at
            if start == math.inf or (at < start < end and (wish.alone or spare < wish.vram)):
                return False
        return True

    def _look_ahead(self) -> None:
        """Work out how it goes on if nobody starts but those that are booked.

        Steps are (from, until, free memory, leases, exclusive ones); starts are the bookings, each with the memory that
        others may have by then in spite of it.
        """
        if self._steps:
            return
        changes = [(end, 0, mb, -1, -alone) for end, mb, alone in self.ends]
        for n, booking in enumerate(self.bookings):
            wish = booking.wish
            changes.append((booking.at, n + 1, -wish.vram, 1, +wish.alone))
            if booking.until < math.inf:
                changes.append((booking.until, 0, wish.vram, -1, -wish.alone))
        changes.sort()
        moment, free, left, exclusive = -math.inf, self.free, self.leases, self.exclusive
        self._starts = []
        for at, n, mb, leases, alone in changes:
            if at > moment:
                self._steps.append((moment, at, free, left, exclusive))
                moment = at
            if n:
                booking = self.bookings[n - 1]
                self._starts.append((booking, -1 if booking.wish.alone else free - booking.wish.need))
            free, left, exclusive = free + mb, left + leases, exclusive + alone
        # For ever after; also at infinity, when leases whose end nobody knows are over.
        self._steps.append((moment, math.inf, free, left, exclusive))


def _foreign(gpu: Gpu, leased: bool) -> bool:
    """Whether somebody else computes on it."""
    if any(not p.graphics and p.run_dir is None for p in gpu.processes):
        return True
    if leased:
        return False
    # An attempt that no lease speaks of belongs to another ledger, or has only just ended: either way not free yet.
    if any(not p.graphics for p in gpu.processes):
        return True
    # Inside a container the driver shows memory in use, but not by whom.
    shown = sum(p.used_mb or 0 for p in gpu.processes)
    unknown = any(p.used_mb is None for p in gpu.processes)
    return not unknown and gpu.used_mb - shown > max(HIDDEN_MB, gpu.total_mb // 32)
