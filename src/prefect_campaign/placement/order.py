"""In which order demands are looked at: by age, then the big ones, for small ones fill what is left beside them."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from prefect_campaign.placement.demand import Demand, Rules
from prefect_campaign.placement.room import HostRoom, needed_mb

AGE_SECONDS = 3600.0
"""Who began to wait in an earlier span of this length goes first, whatever its size."""


def age(demand: Demand) -> float:
    """Its place in the queue by age; less is older."""
    return demand.waiting_since // AGE_SECONDS


def order(
    hosts: Sequence[HostRoom], rules: Rules, demands: Sequence[Demand]
) -> Callable[[Demand], tuple[float, float, int]]:
    """A sort key: the age, the size, and nothing else, so that equal demands keep the order of their plan.

    One experiment a GPU: the widest first, then the longest; durations within a factor of two count as equal. With
    sharing: by duration^1.5 x memory x width^0.75, found by trying (bench/packing.py), the more so the fewer GPUs are
    large enough; sizes within a tenth count as equal.

    Who may take any time counts as the longest: it is known sooner then how long such ones take, and what turns out
    to be long has not waited for the end.

    Args:
        hosts: with the sizes of their GPUs.
        rules: whether GPUs are shared.
        demands: all that are to be sorted.
    """
    longest = max((d.seconds for d in demands if d.seconds is not None), default=1.0)
    sizes = sorted(size for host in hosts for size in host.sizes)
    largest = float(sizes[-1]) if sizes else 1.0
    known: dict[int | None, float] = {None: math.log2(largest)}

    def memory(vram_mb: int | None) -> float:
        """log2 of the memory, over the share of GPUs that have it."""
        found = known.get(vram_mb)
        if found is None:
            enough = len(sizes) - bisect_left(sizes, needed_mb(vram_mb))
            found = known[vram_mb] = math.log2(max(vram_mb or 0, 1) * len(sizes) / enough) if enough else 0.0
        return found

    def alone(demand: Demand) -> tuple[float, float, int]:
        return (age(demand), -demand.gpus, -math.frexp(longest if demand.seconds is None else demand.seconds)[1])

    def shared(demand: Demand) -> tuple[float, float, int]:
        if not demand.gpus:
            return alone(demand)
        seconds = math.log2(max(longest if demand.seconds is None else demand.seconds, 1.0))
        size = 1.5 * seconds + memory(demand.vram_mb) + 0.75 * math.log2(demand.gpus)
        return (age(demand), -round(8 * size), 0)

    return shared if rules.share else alone
