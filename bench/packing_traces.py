"""What the benchmark of packing has to place: hosts, and two kinds of traces."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_campaign.decide.durations import Work
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.placement.demand import Demand

GB = 1024
GPUS_A_HOST = 8
WIDTHS = {1: 50, 2: 20, 3: 3, 4: 15, 5: 1, 6: 2, 7: 1, 8: 8}
"""GPUs of an experiment -> how often, in percent."""
MEMORY_GB = (4, 80)
SECONDS = (300, 8 * 3600)

METHODS, DATASETS, SEEDS = 2, 5, 5
"""Of each campaign."""
SPREAD = 2.0
"""A method or dataset makes a campaign's experiments so many times longer or shorter at most."""
NOISE = 1.1
"""A seed does that."""


@dataclass(frozen=True)
class Trace:
    """Experiments that are all there at the start, with their true durations."""

    demands: list[Demand]
    works: dict[str, Work]
    """exp_id -> what placement may learn durations by."""

    @property
    def lengths(self) -> dict[str, float]:
        """exp_id -> seconds."""
        return {d.exp_id: d.seconds or 0.0 for d in self.demands}


def cluster(sizes: Sequence[int]) -> list[HostView]:
    """64 GPUs on 8 hosts."""
    return [
        HostView(f"h{h}", 0, tuple(Gpu(f"GPU-{h}-{i}", i, f"{gb} GB", gb * GB) for i in range(GPUS_A_HOST)))
        for h, gb in enumerate(sizes)
    ]


def mixed(seed: int, count: int) -> Trace:
    """Experiments of all sizes, no two alike; memory and duration are spread evenly on a logarithmic scale."""
    rng = random.Random(seed)
    demands = [
        Demand(
            f"e{i}",
            gpus=rng.choices(list(WIDTHS), list(WIDTHS.values()))[0],
            vram_mb=round(GB * log_uniform(rng, *MEMORY_GB)),
            seconds=round(log_uniform(rng, *SECONDS)),
        )
        for i in range(count)
    ]
    return Trace(demands, {d.exp_id: Work(d.exp_id, None, None, {}) for d in demands})


def campaigns(seed: int, count: int) -> Trace:
    """The same sizes, but experiments of campaigns: methods x datasets x seeds, in any order.

    A campaign has one number of GPUs; memory depends on the method, the duration on method and dataset, and by a tenth
    on the seed.
    """
    rng = random.Random(seed)
    low, high = SECONDS[0] * SPREAD**2, SECONDS[1] / SPREAD**2
    demands, works = [], {}
    for c in range(count // (METHODS * DATASETS * SEEDS)):
        gpus = rng.choices(list(WIDTHS), list(WIDTHS.values()))[0]
        base = log_uniform(rng, low, high)
        methods = [
            (round(GB * log_uniform(rng, *MEMORY_GB)), log_uniform(rng, 1 / SPREAD, SPREAD)) for _ in range(METHODS)
        ]
        datasets = [log_uniform(rng, 1 / SPREAD, SPREAD) for _ in range(DATASETS)]
        for m, (vram_mb, slower) in enumerate(methods):
            for d, longer in enumerate(datasets):
                for s in range(SEEDS):
                    exp_id = f"c{c}.m{m}.d{d}.s{s}"
                    seconds = round(base * slower * longer * log_uniform(rng, 1 / NOISE, NOISE))
                    demands.append(Demand(exp_id, gpus=gpus, vram_mb=vram_mb, seconds=seconds))
                    works[exp_id] = Work(f"c{c}", f"m{m}", f"d{d}", {"campaign": c, "method": m, "dataset": d})
    rng.shuffle(demands)
    return Trace(demands, works)


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    """A number between the two, evenly spread on a logarithmic scale."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
