"""Whatever is asked: never over-committed, nothing forbidden, all or nothing, and always progress."""

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st
from unit.placement.placement_lab import breaches, lease

from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.placement.demand import Demand, Held, Rules
from prefect_campaign.placement.place import place
from prefect_campaign.placement.room import rooms

SIZES = (8_000, 24_000, 80_000)
NAMES = ("NVIDIA A100", "NVIDIA RTX 4090")
vram = st.none() | st.sampled_from((0, 1, 999, 4_000, 6_666, 6_667, 10_000, 20_000, 66_666, 66_667))


@st.composite
def gpus(draw, host: str, index: int) -> Gpu:
    total = draw(st.sampled_from(SIZES))
    processes = tuple(
        GpuProcess(pid, draw(st.none() | st.integers(0, 3_000)), graphics=draw(st.booleans()), run_dir=run_dir)
        for pid, run_dir in enumerate(draw(st.lists(st.sampled_from((None, "/runs/a")), max_size=2)))
    )
    used = sum(p.used_mb or 0 for p in processes) + draw(st.sampled_from((0, 0, 300, 5_000)))
    problem = draw(st.sampled_from(("", "", "", "lost")))
    return Gpu(
        f"GPU-{host}-{index}",
        index,
        draw(st.sampled_from(NAMES)),
        total,
        min(used, total),
        processes=processes,
        problem=problem,
    )


@st.composite
def some_hosts(draw) -> list[HostView]:
    return [
        HostView(
            name,
            draw(st.integers(0, 5)),
            tuple(draw(gpus(name, i)) for i in range(draw(st.integers(0, 4)))),
            problem=draw(st.sampled_from(("", "", "", "unreachable"))),
            factor=draw(st.sampled_from((0.5, 1.0, 2.0))),
            reserve=draw(st.frozensets(st.sampled_from(("0", f"GPU-{name}-1")), max_size=1)),
            keep_free=draw(st.sampled_from((0, 0, 1))),
            cores=draw(st.booleans()),
        )
        for name in ("h0", "h1", "h2")[: draw(st.integers(0, 3))]
    ]


places = st.tuples(st.sampled_from(("h0", "h1", "h2")), st.integers(0, 3))
some_rules = st.builds(
    Rules,
    share=st.booleans(),
    reserve=st.frozensets(st.sampled_from(("1", "h0:2", "GPU-h1-0", "nothing")), max_size=2),
    keep_free=st.sampled_from((0, 0, 1)),
    avoid=st.lists(st.sampled_from(("h2", "h0:0", "*4090*", "A100")), max_size=1).map(tuple),
)
some_held = st.lists(
    st.builds(
        Held,
        host=st.sampled_from(("h0", "h1", "h2")),
        device=st.just(""),
        token=st.sampled_from(("t0", "t1")),
        vram_mb=vram,
        shared=st.booleans(),
        seen_mb=st.sampled_from((0, 0, 500, 9_000)),
        until=st.none() | st.sampled_from((50.0, 200.0, 900.0)),
    ).flatmap(lambda h: st.integers(0, 3).map(lambda i: replace(h, device=f"GPU-{h.host}-{i}")))
    | st.builds(Held, st.sampled_from(("h0", "h1")), st.sampled_from(("slot-0", "slot-2")), st.just("t"), st.none()),
    max_size=6,
)
some_demands = st.lists(
    st.builds(
        Demand,
        exp_id=st.just(""),
        gpus=st.integers(0, 4),
        vram_mb=vram,
        not_before=st.sampled_from((0.0, 0.0, 101.0)),
        waiting_since=st.sampled_from((0.0, 4_000.0)),
        seconds=st.none() | st.sampled_from((0.0, 60.0, 500.0)),
        slots=st.sampled_from((1, 1, 2, 3, 9)),
        others=st.booleans(),
        avoid=st.frozensets(places.map(lambda p: (p[0], f"GPU-{p[0]}-{p[1]}")) | st.just(("h0", "*")), max_size=1),
    ),
    max_size=12,
).map(lambda found: [replace(d, exp_id=f"e{i}") for i, d in enumerate(found)])
some_extra = st.dictionaries(places.map(lambda p: (p[0], f"GPU-{p[0]}-{p[1]}")), st.integers(0, 20_000), max_size=2)


@settings(max_examples=400)
@given(some_demands, some_hosts(), some_held, some_rules, some_extra)
def test_no_rule_is_ever_broken(demands, hosts, held, rules, extra) -> None:
    placement = place(demands, hosts, held, rules, 100.0, extra)
    assert breaches(placement, demands, hosts, held, rules, 100.0, extra) == []
    assert placement == place(demands, hosts, held, rules, 100.0, extra)
    assert bool(placement.waits) == bool(placement.reasons)
    event(f"{len(placement.assignments)} placed of {len(demands)}")


@settings(max_examples=300)
@given(some_demands, some_hosts(), some_rules)
def test_every_experiment_that_can_run_runs_in_the_end_and_only_those(demands, hosts, rules) -> None:
    """Places, lets the oldest one end, and so on; hosts are clean and only have what rules leave."""
    hosts = [
        replace(h, problem="", gpus=tuple(replace(g, used_mb=0, processes=(), problem="") for g in h.gpus))
        for h in hosts
    ]
    demands = [replace(d, avoid=frozenset(), not_before=0.0) for d in demands]
    left = {d.exp_id: d for d in demands}
    running: list[list[Held]] = []
    impossible: frozenset[str] | None = None
    for step in range(2 * len(demands) + 1):
        placement = place(list(left.values()), hosts, [h for one in running for h in one], rules, 100.0 * step)
        impossible = placement.never if impossible is None else impossible
        assert placement.never == impossible
        for a in placement.assignments:
            demand = left.pop(a.exp_id)
            until = None if demand.seconds is None else 100.0 * step + demand.seconds
            running.append(lease(a, demand, shared=rules.share, until=until))
        if not running:
            break
        running.pop(0)
    assert left.keys() == (impossible if hosts else {d.exp_id for d in demands})
    for demand in demands:
        if hosts:
            alone = place([demand], hosts, [], rules, 0.0)
            assert bool(alone.assignments) != (demand.exp_id in (impossible or ()))


@given(some_hosts(), some_held, some_rules, some_extra, st.integers(1, 3))
def test_the_most_that_is_free_for_one_is_what_it_can_get(hosts, held, rules, extra, width) -> None:
    avoid = frozenset({("h0", "GPU-h0-0"), ("h1", "*")})
    most = max((room.most_for(width, avoid) for room in rooms(hosts, held, rules, extra)), default=0)
    for vram_mb, fits in ((most * 5 // 6, most > 0), (most, False)):
        found = place([Demand("e", width, vram_mb, avoid=avoid)], hosts, held, rules, 100.0, extra)
        if vram_mb:
            assert bool(found.assignments) == fits


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 24), st.booleans())
def test_equal_hosts_are_filled_evenly(hosts: int, each: int, count: int, share: bool) -> None:
    views = [
        HostView(f"h{h}", 0, tuple(Gpu(f"GPU-{h}-{i}", i, total_mb=80_000) for i in range(each))) for h in range(hosts)
    ]
    demands = [Demand(f"e{i}", 1, 1_000) for i in range(min(count, hosts * each))]
    placement = place(demands, views, [], Rules(share=share), 0.0)
    counts = [sum(a.host == v.host for a in placement.assignments) for v in views]
    assert sum(counts) == len(demands)
    assert max(counts) - min(counts) <= 1
