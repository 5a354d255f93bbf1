"""How well placement packs: a mixed trace in simulated time, against a lower bound and one experiment a GPU in turn.

The simulation calls the product's own `place` whenever an experiment has ended, and the product's own `Durations` is
what learns. Several seeds; all figures are ratios of makespans, so no clock matters, but for the last line: the time of
one call with 1,000 demands and 64 GPUs.
"""

import argparse
import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import mean, median

from packing_bound import lower_bound
from packing_traces import GB, Trace, campaigns, cluster, log_uniform, mixed
from rich.console import Console
from rich.table import Table

from prefect_campaign.decide.durations import Durations
from prefect_campaign.model.devices import HostView
from prefect_campaign.placement.demand import Assignment, Demand, Held, Rules
from prefect_campaign.placement.place import place

CLUSTERS = {"mixed": (48, 80, 80, 80, 80, 80, 141, 141), "large": (141,) * 8}
"""GB of each GPU, host by host. 4 to 80 GB with the 1.2 rule need GPUs of 96 GB or more."""
TRACES = {"mixed": mixed, "campaigns": campaigns}
FIRST_SEED = 100
"""The order of placement was tuned on lower ones."""
KNOWN = ("exactly", "roughly", "learned", "nothing")

Policy = Callable[[Sequence[Demand], Sequence[Held], float], Sequence[Assignment]]


class Told:
    """What placement is told of durations.

    Args:
        trace: the experiments.
        known: ``exactly``, ``roughly`` (within a factor of 1.5), ``learned`` (nothing at first, then what the product
            learns from those that are done) or ``nothing``.
        seed: of the factors.
    """

    def __init__(self, trace: Trace, known: str, seed: int) -> None:
        rng = random.Random(seed)
        wrong = {"exactly": 1.0, "roughly": 1.5}.get(known)
        self._said = {e: s * log_uniform(rng, 1 / wrong, wrong) for e, s in trace.lengths.items()} if wrong else {}
        self._works = trace.works if known == "learned" else {}
        self._durations = Durations()

    def __call__(self, exp_id: str) -> float | None:
        """Seconds, as far as known by now."""
        return self._durations.expected(self._works[exp_id]) if self._works else self._said.get(exp_id)

    def ended(self, exp_id: str, seconds: float) -> None:
        """An experiment is done."""
        if self._works:
            self._durations.add(self._works[exp_id], seconds)


def simulate(trace: Trace, told: Told, policy: Policy, *, share: bool) -> float:
    """Makespan in seconds when `policy` is asked at time 0 and whenever something has ended.

    Args:
        trace: the experiments.
        told: what is said of their durations.
        policy: who starts now, of those that wait, beside those that hold GPUs.
        share: whether leases allow others beside them.
    """
    lengths = trace.lengths
    waiting = {d.exp_id: d for d in trace.demands}
    running: dict[str, list[Held]] = {}
    ends: list[tuple[float, str]] = []
    now = 0.0
    while waiting:
        asked = [replace(d, seconds=told(d.exp_id)) for d in waiting.values()]
        for a in policy(asked, list(itertools.chain(*running.values())), now):
            d, said = waiting.pop(a.exp_id), told(a.exp_id)
            until = None if said is None else now + said
            running[d.exp_id] = [Held(a.host, u, d.exp_id, d.vram_mb, shared=share, until=until) for u in a.devices]
            heapq.heappush(ends, (now + lengths[d.exp_id], d.exp_id))
        if not ends:
            raise RuntimeError(f"nothing runs and {len(waiting)} wait: no progress")
        if waiting:
            now = ends[0][0]
            while ends and ends[0][0] == now:
                _, done = heapq.heappop(ends)
                del running[done]
                told.ended(done, lengths[done])
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


def ratios(kind: str, sizes: Sequence[int], seed: int, count: int) -> dict[str, float]:
    """Bounds in hours, and every contender's makespan over the bound that holds for it."""
    hosts = cluster(sizes)
    trace = TRACES[kind](seed, count)
    found: dict[str, float] = {}
    spans: dict[bool, float] = {}
    for share in (True, False):
        spans[share] = lower_bound(trace.demands, hosts, share=share)
        found[f"bound {_name(share)}"] = spans[share] / 3600
        for known in KNOWN:
            if known == "learned" and kind == "mixed":
                continue  # no two are alike: there is nothing to learn
            span = simulate(trace, Told(trace, known, seed), ours(hosts, share=share), share=share)
            found[f"{_name(share)}, {known}"] = span / spans[share]
    found["in turn"] = simulate(trace, Told(trace, "nothing", seed), in_turn(hosts), share=False) / spans[False]
    found["in turn / shared, exactly"] = found["in turn"] * spans[False] / (found["shared, exactly"] * spans[True])
    return found


def call_seconds(repeats: int = 20) -> dict[str, float]:
    """Seconds of one call with 1,000 demands and 64 GPUs: median over repeats, all GPUs free, or all leased."""
    hosts = cluster(CLUSTERS["mixed"])
    demands = mixed(0, 1000).demands
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
    for sizes, kind in itertools.product(CLUSTERS.values(), TRACES):
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", min_width=70)
        what = f"{args.experiments} experiments{' of campaigns' if kind == 'campaigns' else ''}"
        table.title = f"\n{what}, 64 GPUs of {', '.join(f'{s} GB' for s in sorted(set(sizes)))}"
        table.add_column("makespan / lower bound")
        with ProcessPoolExecutor() as pool:
            runs = list(pool.map(partial(ratios, kind, sizes, count=args.experiments), seeds))
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


if __name__ == "__main__":
    main()
