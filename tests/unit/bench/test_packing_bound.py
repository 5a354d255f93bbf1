"""The lower bound of the benchmark of packing, against the shortest of all schedules of small traces."""

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.placement.demand import Demand

BOUND = Path(__file__).parents[3] / "bench" / "packing_bound.py"


def _lower_bound() -> Any:
    spec = importlib.util.spec_from_file_location("packing_bound", BOUND)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lower_bound


lower_bound = _lower_bound()

Run = tuple[int, int, tuple[int, ...]]
"""End, MiB, GPUs by number."""


def shortest(trace: Sequence[Demand], hosts: Sequence[HostView], *, share: bool) -> int:
    """Makespan of the best schedule: every experiment starts at 0 or when another ends, in any order, anywhere.

    Some best schedule is of that kind: let everything start as early as it can, in the order of its starts.
    """
    sizes = [g.total_mb for h in hosts for g in h.gpus]
    first = list(itertools.accumulate((len(h.gpus) for h in hosts), initial=0))
    places = {
        d.exp_id: [
            chosen
            for h, view in enumerate(hosts)
            for chosen in itertools.combinations(range(first[h], first[h] + len(view.gpus)), d.gpus)
        ]
        for d in trace
    }
    best = sum(int(d.seconds or 0) for d in trace)

    def fits(d: Demand, chosen: tuple[int, ...], running: Sequence[Run]) -> bool:
        for gpu in chosen:
            there = [mb for _, mb, gpus in running if gpu in gpus]
            if (there and not share) or 5 * (sizes[gpu] - sum(there)) < 6 * (d.vram_mb or 0):
                return False
        return True

    def later(now: int, running: Sequence[Run]) -> Iterator[tuple[int, list[Run]]]:
        ends = sorted({end for end, _, _ in running if end > now})
        if ends:
            yield ends[0], [run for run in running if run[0] > ends[0]]

    def search(waiting: tuple[Demand, ...], now: int, running: list[Run]) -> None:
        nonlocal best
        longest = max((now + int(d.seconds or 0) for d in waiting), default=0)
        if max([longest, *(end for end, _, _ in running)]) >= best:
            return
        if not waiting:
            best = max(end for end, _, _ in running)
            return
        for n, d in enumerate(waiting):
            for chosen in places[d.exp_id]:
                if fits(d, chosen, running):
                    run = (now + int(d.seconds or 0), d.vram_mb or 0, chosen)
                    search(waiting[:n] + waiting[n + 1 :], now, [*running, run])
        for moment, still in later(now, running):
            search(waiting, moment, still)

    search(tuple(trace), 0, [])
    return best


def host(name: str, *sizes: int) -> HostView:
    return HostView(name, 0, tuple(Gpu(f"GPU-{name}-{i}", i, "", mb) for i, mb in enumerate(sizes)))


CLUSTERS = [
    [host("a", 100)],
    [host("a", 100, 100)],
    [host("a", 100), host("b", 60)],
    [host("a", 60, 60), host("b", 100)],
]
demands = st.lists(
    st.builds(
        Demand,
        st.just(""),
        gpus=st.sampled_from((1, 1, 2)),
        vram_mb=st.sampled_from((5, 12, 24, 33, 40, 45, 50, 70, 83)),
        seconds=st.sampled_from((1.0, 2.0, 3.0, 5.0)),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(demands, st.sampled_from(CLUSTERS), st.booleans())
def test_no_schedule_is_shorter(found: list[Demand], hosts: list[HostView], share: bool) -> None:
    trace: list[Any] = [Demand(f"e{i}", d.gpus, d.vram_mb, seconds=d.seconds) for i, d in enumerate(found)]
    for d in trace:  # each has room on some host
        assume(any(len(h.gpus) >= d.gpus and 5 * h.gpus[0].total_mb >= 6 * d.vram_mb for h in hosts))
    bound, best = lower_bound(trace, hosts, share=share), shortest(trace, hosts, share=share)
    event("tight" if bound > 0.999 * best else "not tight")
    assert bound <= best


@pytest.mark.parametrize(
    ("trace", "share", "seconds"),
    [
        ([(1, 83, 5.0)] * 3, True, 15.0),  # nobody beside it
        ([(1, 46, 5.0)] * 3, True, 15.0),  # two would need 101.2
        ([(1, 45, 5.0)] * 4, True, 10.0),  # two are 99
        ([(1, 31, 5.0)] * 6, True, 10.0),  # three are 99.2
        ([(1, 5, 5.0)] * 3, False, 15.0),
        ([(1, 5, 5.0), (1, 5, 9.0)], True, 9.0),  # the longest
    ],
)
def test_where_it_is_the_very_makespan(trace: list[tuple[int, int, float]], share: bool, seconds: float) -> None:
    found = [Demand(f"e{i}", gpus, mb, seconds=took) for i, (gpus, mb, took) in enumerate(trace)]
    assert lower_bound(found, CLUSTERS[0], share=share) == pytest.approx(seconds, rel=1e-5)
    assert shortest(found, CLUSTERS[0], share=share) == seconds
