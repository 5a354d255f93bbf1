"""In which order demands are looked at: by age, then the big ones, for small ones fill what is left beside them."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from prefect_campaign.placement.demand import Demand, Rules

LENGTH, WIDTH = 2.5, 0.8
"""Found by trying (bench/packing.py)."""

_Key = tuple[float, float, int]


def order(sizes: Sequence[int], rules: Rules, demands: Sequence[Demand]) -> Callable[[Demand], _Key]:
    """A sort key: the age, the size, and nothing else, so that equal demands keep the order of their plan.

    One experiment a GPU: the widest first, then the longest; durations within a factor of two count as equal. With
    sharing: by duration^LENGTH x width^WIDTH / copies, where copies is how many such would fit on all GPUs together,
    so that a large share of a GPU counts, and few GPUs that are large enough; sizes within a tenth count as equal.

    Who may take any time counts as the longest: it is known sooner then how long such ones take, and what turns out
    to be long has not waited for the end.

    Args:
        sizes: memory in MiB of every GPU that may be used.
        rules: whether GPUs are shared.
        demands: all that are to be sorted.
    """
    longest = max((d.seconds for d in demands if d.seconds is not None), default=1.0)
    gpus = Counter(sizes)
    known: dict[int | None, float] = {}

    def scarcity(vram_mb: int | None) -> float:
        """log2 of how few fit."""
        found = known.get(vram_mb)
        if found is None:
            # The last of n that are put on a GPU needs 1.2 times its memory.
            copies = len(sizes) if not vram_mb else sum(n * int(size / vram_mb - 0.2) for size, n in gpus.items())
            found = known[vram_mb] = -math.log2(max(copies, 1))
        return found

    def alone(demand: Demand) -> _Key:
        return (
            demand.age,
            -(demand.gpus or demand.slots),
            -math.frexp(longest if demand.seconds is None else demand.seconds)[1],
        )

    def shared(demand: Demand) -> _Key:
        if not demand.gpus:
            return alone(demand)
        seconds = math.log2(max(longest if demand.seconds is None else demand.seconds, 1.0))
        size = LENGTH * seconds + WIDTH * math.log2(demand.gpus) + scarcity(demand.vram_mb)
        return (demand.age, -round(8 * size), 0)

    return shared if rules.share else alone
