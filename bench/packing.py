"""How well placement packs: a mixed trace in simulated time, against a lower bound and one experiment a GPU in turn.

The simulation calls the product's own `place` at every start and end of an experiment. Several seeds; all figures are
ratios of makespans, so no clock matters, but for the last line: the time of one call with 1,000 demands and 64 GPUs.
"""

import argparse
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import mean, median

from packing_bound import lower_bound
from rich.console import Console
from rich.table import Table

from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.placement.demand import Assignment, Demand, Held, Rules
from prefect_campaign.placement.place import place

GB = 1024
CLUSTERS = {"mixed": (48, 80, 80, 80, 80, 80, 141, 141), "large": (141,) * 8}
"""GB of each GPU, host by host. 4 to 80 GB with the 1.2 rule need GPUs of 96 GB or more."""
FIRST_SEED = 100
"""The order of placement was tuned on lower ones."""
KNOWN = ("exactly", "roughly", "nothing")
GPUS_A_HOST = 8
WIDTHS = {1: 50, 2: 20, 3: 3, 4: 15, 5: 1, 6: 2, 7: 1, 8: 8}
"""GPUs of an experiment -> how often, in percent."""
MEMORY_GB = (4, 80)
SECONDS = (300, 8 * 3600)

Policy = Callable[[Sequence[Demand], Sequence[Held], float], Sequence[Assignment]]


def cluster(sizes: Sequence[int]) -> list[HostView]:
    """64 GPUs on 8 hosts."""
    return [
        HostView(f"h{h}", 0, tuple(Gpu(f"GPU-{h}-{i}", i, f"{gb} GB", gb * GB) for i in range(GPUS_A_HOST)))
        for h, gb in enumerate(sizes)
    ]


def trace(seed: int, count: int) -> list[Demand]:
    """Experiments of all sizes; memory and duration are spread evenly on a logarithmic scale."""
    rng = random.Random(seed)
    return [
        Demand(
            f"e{i}",
            gpus=rng.choices(list(WIDTHS), list(WIDTHS.values()))[0],
            vram_mb=round(GB * _log_uniform(rng, *MEMORY_GB)),
            seconds=round(_log_uniform(rng, *SECONDS)),
        )
        for i in range(count)
    ]


def simulate(demands: Sequence[Demand], lengths: Mapping[str, float], policy: Policy, *, share: bool) -> float:
    """Makespan in seconds when `policy` is asked at time 0 and whenever something has ended.

    Args:
        demands: with what is said of their durations.
        lengths: exp_id -> true duration in seconds.
        policy: who starts now, of those that wait, beside those that hold GPUs.
        share: whether leases allow others beside them.
    """
    waiting = {d.exp_id: d for d in demands}
    running: dict[str, list[Held]] = {}
    ends: list[tuple[float, str]] = []
    now = 0.0
    while waiting:
        started = policy(list(waiting.values()), list(itertools.chain(*running.values())), now)
        for a in started:
            d = waiting.pop(a.exp_id)
            seconds, said = lengths[d.exp_id], d.seconds
            until = None if said is None else now + said
            running[d.exp_id] = [Held(a.host, u, d.exp_id, d.vram_mb, shared=share, until=until) for u in a.devices]
            heapq.heappush(ends, (now + seconds, d.exp_id))
        if not ends:
            raise RuntimeError(f"nothing runs and {len(waiting)} wait: no progress")
        if waiting:
            now = ends[0][0]
            while ends and ends[0][0] == now:
                del running[heapq.heappop(ends)[1]]
    return max(end for end, _ in ends)


def ours(hosts: Sequence[HostView], *, share: bool) -> Policy:
    """The product's placement."""

    def policy(waiting: Sequence[Demand], held: Sequence[Held], now: float) -> Sequence[Assignment]:
        return place(waiting, hosts, held, Rules(share=share), now).assignments

    return policy


def in_turn(hosts: Sequence[HostView]) -> Policy:
    """One experiment a GPU, first in first out: the next one waits until a host has all its GPUs."""

    def policy(waiting: Sequence[Demand], held: Sequence[Held], now: float) -> Sequence[Assignment]:
        taken = {h.device for h in held}
        free = {h.host: [g for g in h.gpus if g.uuid not in taken] for h in hosts}
        found = []
        for d in waiting:
            fit = {h: [g for g in gpus if 5 * g.total_mb >= 6 * (d.vram_mb or 0)] for h, gpus in free.items()}
            host = max((h for h in fit if len(fit[h]) >= d.gpus), key=lambda h: len(fit[h]), default=None)
            if host is None:
                break
            chosen = fit[host][: d.gpus]
            free[host] = [g for g in free[host] if g not in chosen]
            found.append(Assignment(d.exp_id, host, tuple(g.uuid for g in chosen)))
        return found

    return policy


def said(demands: Sequence[Demand], seed: int, *, known: str) -> list[Demand]:
    """What placement is told of durations: exactly, within a factor of 1.5, or nothing."""
    rng = random.Random(seed)
    if known == "nothing":
        return [replace(d, seconds=None) for d in demands]
    if known == "roughly":
        return [replace(d, seconds=(d.seconds or 0) * _log_uniform(rng, 2 / 3, 3 / 2)) for d in demands]
    return list(demands)


def ratios(sizes: Sequence[int], seed: int, count: int) -> dict[str, float]:
    """Bounds in hours, and every contender's makespan over the bound that holds for it."""
    hosts = cluster(sizes)
    demands = trace(seed, count)
    lengths = {d.exp_id: d.seconds or 0.0 for d in demands}
    found: dict[str, float] = {}
    spans: dict[bool, float] = {}
    for share in (True, False):
        spans[share] = lower_bound(demands, hosts, share=share)
        found[f"bound {_name(share)}"] = spans[share] / 3600
        for known in KNOWN:
            span = simulate(said(demands, seed, known=known), lengths, ours(hosts, share=share), share=share)
            found[f"{_name(share)}, {known}"] = span / spans[share]
    found["in turn"] = simulate(demands, lengths, in_turn(hosts), share=False) / spans[False]
    found["in turn / shared, exactly"] = found["in turn"] * spans[False] / (found["shared, exactly"] * spans[True])
    return found


def call_seconds(repeats: int = 20) -> dict[str, float]:
    """Seconds of one call with 1,000 demands and 64 GPUs: median over repeats, all GPUs free, or all leased."""
    hosts = cluster(CLUSTERS["mixed"])
    demands = trace(0, 1000)
    found = {}
    for share in (True, False):
        start = place(demands, hosts, [], Rules(share=share), 0.0)
        held = [
            Held(a.host, u, a.exp_id, 4 * GB, shared=share, until=9.0) for a in start.assignments for u in a.devices
        ]
        for name, leases in (("free", []), ("full", held)):
            times = []
            for _ in range(repeats):
                begin = time.perf_counter()
                place(demands, hosts, leases, Rules(share=share), 0.0)
                times.append(time.perf_counter() - begin)
            found[f"{_name(share)}, GPUs {name}"] = median(times)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    console = Console(width=120, highlight=False)
    for sizes in CLUSTERS.values():
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
        table.title = f"\n{args.experiments} experiments, 64 GPUs of {', '.join(f'{s} GB' for s in sorted(set(sizes)))}"
        table.add_column("makespan / lower bound")
        with ProcessPoolExecutor() as pool:
            runs = list(pool.map(ratios, [sizes] * len(seeds), seeds, [args.experiments] * len(seeds)))
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        table.add_column("mean", justify="right")
        for key in runs[0]:
            digits = 1 if key.startswith("bound") else 3
            values = [run[key] for run in runs]
            label = f"{key}, h" if digits == 1 else key
            table.add_row(label, *(f"{v:.{digits}f}" for v in [*values, mean(values)]))
        console.print(table)
    console.print("\none call, 1,000 demands, 64 GPUs (median), ms:")
    for name, seconds in call_seconds().items():
        console.print(f"  {name}: {1000 * seconds:.1f}", markup=False)


def _name(share: bool) -> str:
    return "shared" if share else "one a GPU"


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


if __name__ == "__main__":
    main()
