"""One example for each rule of placement."""

from dataclasses import replace

import pytest
from unit.placement.placement_lab import foreign, got, gpu, host, lease, load, whole

from prefect_campaign.model.devices import GpuProcess, HostView
from prefect_campaign.model.errors import Refused
from prefect_campaign.placement.demand import Demand, Held, Rules
from prefect_campaign.placement.place import place
from prefect_campaign.placement.room import unmatched

ALONE, SHARE = Rules(), Rules(share=True)


def one(demand: Demand, *hosts: HostView, held: tuple[Held, ...] = (), rules: Rules = ALONE, **more) -> str:
    """Where it goes, as host/devices; empty if it waits."""
    found = got(place([demand], hosts, held, rules, 100.0, **more))
    return "/".join(found.get(demand.exp_id, ()))


@pytest.mark.parametrize(("vram", "fits"), [(66_666, True), (66_667, False)])
def test_the_free_memory_must_be_1_2_times_the_estimate(vram: int, fits: bool) -> None:
    assert bool(one(Demand("a", 1, vram), host("h", 1))) is fits


def test_memory_in_use_unseen_leases_and_peaks_of_others_are_counted() -> None:
    view = replace(host("h"), gpus=(gpu("h", 0, used_mb=30_000, processes=(GpuProcess(1, 30_000, run_dir="/r/a"),)),))
    lease_a = Held("h", "GPU-h-0", "a", 40_000, shared=True, seen_mb=30_000)
    # 80 000 - 30 000 in use - 10 000 that a has not taken yet = 40 000
    assert one(Demand("b", 1, 33_333), view, held=(lease_a,), rules=SHARE) == "h/GPU-h-0"
    assert one(Demand("b", 1, 33_334), view, held=(lease_a,), rules=SHARE) == ""
    assert one(Demand("b", 1, 33_333), view, held=(lease_a,), rules=SHARE, extra={("h", "GPU-h-0"): 1}) == ""


def test_a_lease_that_uses_more_than_it_said_gives_nothing_back() -> None:
    view = replace(host("h"), gpus=(gpu("h", 0, used_mb=50_000, processes=(GpuProcess(1, 50_000, run_dir="/r/a"),)),))
    lease_a = Held("h", "GPU-h-0", "a", 10_000, shared=True, seen_mb=50_000)
    assert one(Demand("b", 1, 25_001), view, held=(lease_a,), rules=SHARE) == ""


def test_one_experiment_a_gpu_unless_told_otherwise() -> None:
    demands = [Demand(f"e{i}", 1, 10_000) for i in range(5)]
    assert len(got(place(demands, [host("h")], [], Rules(), 0))) == 2
    assert len(got(place(demands, [host("h")], [], SHARE, 0))) == 5


@pytest.mark.parametrize(
    "other", [Held("h", "GPU-h-0", "a", None, shared=True), Held("h", "GPU-h-0", "a", 100, shared=False)]
)
def test_whole_and_unshared_leases_allow_nobody_beside_them(other: Held) -> None:
    assert one(Demand("b", 1, 100), host("h", 1), held=(other,), rules=SHARE) == ""


def test_a_whole_gpu_is_one_without_leases_whatever_its_size() -> None:
    assert one(whole("a"), host("h", 1, total=1_000)) == "h/GPU-h-0"
    assert one(whole("a"), host("h", 1), held=(Held("h", "GPU-h-0", "b", 1, shared=True),), rules=SHARE) == ""


def test_a_gpu_with_others_on_it_is_the_last_choice_and_never_for_a_whole_one() -> None:
    busy = replace(host("h"), gpus=(gpu("h", 0, used_mb=1000, processes=(foreign(),)), gpu("h", 1)))
    assert one(Demand("a", 1, 8_000), busy) == "h/GPU-h-1"
    assert one(Demand("a", 1, 8_000), busy, held=(Held("h", "GPU-h-1", "b", None),)) == "h/GPU-h-0"
    assert one(whole("a"), busy, held=(Held("h", "GPU-h-1", "b", None),)) == ""
    # The other host is busier, but clean.
    loaded = host("g", 4)
    held = tuple(Held("g", f"GPU-g-{i}", "x", None) for i in range(3))
    assert one(Demand("a", 2, 8_000), busy, host("g", 2)) == "g/GPU-g-0/GPU-g-1"
    assert one(Demand("a", 1, 8_000), replace(busy, gpus=busy.gpus[:1]), loaded, held=held) == "g/GPU-g-3"


def test_a_clean_host_goes_before_a_less_loaded_one_with_others_on_it() -> None:
    mixed = replace(host("h"), gpus=(gpu("h", 0, used_mb=1000, processes=(foreign(),)), gpu("h", 1)))
    held = tuple(Held("g", f"GPU-g-{i}", "x", None) for i in range(3))
    assert one(Demand("a", 2, 8_000), mixed, host("g", 5), held=held) == "g/GPU-g-3/GPU-g-4"
    assert one(Demand("a", 2, 8_000), mixed, host("g", 4), held=held) == "h/GPU-h-0/GPU-h-1"


def test_memory_that_no_visible_process_explains_is_somebody_elses() -> None:
    hidden = replace(host("h"), gpus=(gpu("h", 0, used_mb=20_000),))
    assert one(whole("a"), hidden) == ""
    assert one(Demand("a", 1, 50_000), hidden) == "h/GPU-h-0"
    assert one(whole("a"), replace(host("h"), gpus=(gpu("h", 0, used_mb=600),))) == "h/GPU-h-0"


def test_an_attempt_without_a_lease_is_somebody_elses_and_a_display_is_nobodys() -> None:
    stray = GpuProcess(1, 500, run_dir="/elsewhere/r")
    assert one(whole("a"), replace(host("h"), gpus=(gpu("h", 0, used_mb=500, processes=(stray,)),))) == ""
    display = GpuProcess(1, 500, graphics=True)
    assert one(whole("a"), replace(host("h"), gpus=(gpu("h", 0, used_mb=500, processes=(display,)),))) == "h/GPU-h-0"


def test_several_gpus_come_from_one_host_or_not_at_all() -> None:
    assert one(whole("a", 3), host("g", 2), host("h", 3)) == "h/GPU-h-0/GPU-h-1/GPU-h-2"
    held = (Held("h", "GPU-h-0", "x", None),)
    placement = place([whole("a", 3)], [host("g", 2), host("h", 3)], held, Rules(), 0)
    assert got(placement) == {}
    assert "g: 2 of 2 GPUs; h: 2 of 3 GPUs (1 leased)" in placement.reasons["a"]


@pytest.mark.parametrize(
    ("rules", "host_rules", "where"),
    [
        (Rules(reserve=frozenset({"0"})), {}, "h/GPU-h-1"),
        (Rules(reserve=frozenset({"h:0"})), {}, "h/GPU-h-1"),
        (Rules(reserve=frozenset({"other:0"})), {}, "h/GPU-h-0"),
        (Rules(reserve=frozenset({"GPU-h-0"})), {}, "h/GPU-h-1"),
        (Rules(), {"reserve": frozenset({"0"})}, "h/GPU-h-1"),
        (Rules(reserve=frozenset({"1"})), {"reserve": frozenset({"GPU-h-0"})}, ""),
        (Rules(keep_free=1), {}, "h/GPU-h-0"),
        (Rules(keep_free=1), {"keep_free": 2}, ""),
        (Rules(keep_free=1, reserve=frozenset({"1"})), {}, ""),
        (Rules(avoid=("h",)), {}, ""),
        (Rules(avoid=("h:0",)), {}, "h/GPU-h-1"),
        (Rules(avoid=("*a100*",)), {}, ""),
        (Rules(avoid=("A100",)), {}, "h/GPU-h-0"),
    ],
)
def test_reserved_kept_free_and_avoided_gpus(rules: Rules, host_rules: dict[str, object], where: str) -> None:
    assert one(whole("a"), host("h", **host_rules), rules=rules) == where


def test_keep_free_counts_leases_of_everybody_but_shared_ones_may_be_joined() -> None:
    held = (Held("h", "GPU-h-0", "x", 10_000, shared=True),)
    assert one(Demand("a", 1, 1_000), host("h"), held=held, rules=Rules(share=True, keep_free=1)) == "h/GPU-h-0"
    assert one(Demand("a", 1, 70_000), host("h"), held=held, rules=Rules(share=True, keep_free=1)) == ""
    assert one(whole("a"), host("h"), held=held, rules=Rules(keep_free=1)) == ""


def test_gpus_and_hosts_with_a_problem_are_not_used_but_may_come_back() -> None:
    problem = "GPU is lost; reboot the host"  # what to do about it would only blur the list
    lost = replace(host("h"), gpus=(gpu("h", 0, problem=problem), gpu("h", 1, mig=True), gpu("h", 2, total=0)))
    placement = place([whole("a")], [lost, host("g", problem="unreachable")], [], Rules(), 0)
    assert got(placement) == {}
    assert placement.never == frozenset()
    assert "1 GPU is lost, 1 MIG is on, 1 memory cannot be read" in placement.reasons["a"]
    assert "g: unreachable" in placement.reasons["a"]


def test_a_driver_that_fails_closes_the_gpus_of_a_host_and_not_its_slots() -> None:
    view = host("h", gpu_problem="driver does not answer")
    placement = place([whole("a"), Demand("b")], [view], [], Rules(), 0)
    assert got(placement) == {"b": ("h", "slot-0")}
    assert placement.reasons["a"] == "waits: needs 1 whole GPU; h: driver does not answer"
    assert placement.never == frozenset()


def test_what_an_experiment_must_not_get() -> None:
    assert one(whole("a", avoid=frozenset({("h", "GPU-h-0")})), host("h")) == "h/GPU-h-1"
    assert one(whole("a", avoid=frozenset({("h", "*")})), host("h"), host("k")) == "k/GPU-k-0"
    assert one(Demand("a", avoid=frozenset({("h", "slot-0")})), host("h")) == "h/slot-1"
    assert one(Demand("a", avoid=frozenset({("h", "*")})), host("h"), host("k")) == "k/slot-0"


def test_the_avoided_slot_stays_free_for_others() -> None:
    demands = [Demand("a", avoid=frozenset({("h", "slot-0")})), Demand("b")]
    assert got(place(demands, [host("h")], [], Rules(), 0)) == {"a": ("h", "slot-1"), "b": ("h", "slot-0")}


def test_experiments_without_gpus_take_free_slots_in_order_of_the_plan() -> None:
    held = [Held("h", "slot-1", "x", None), Held("h", "slot-99", "y", None)]
    placement = place([Demand(f"e{i}") for i in range(5)], [host("h", 0)], held, Rules(), 0)
    assert got(placement) == {"e0": ("h", "slot-0"), "e1": ("h", "slot-2"), "e2": ("h", "slot-3")}
    assert placement.waits == "2 wait: 2 for a free slot (4 in all, 4 leased)"
    assert placement.reasons["e4"] == "waits: needs a free slot; h: all 4 slots leased"


def test_one_takes_as_many_slots_as_it_wants_processors_or_all_where_there_are_fewer() -> None:
    demands = [Demand(f"e{i}", slots=3) for i in range(3)]
    held = [Held("big", "slot-1", "x", None)]
    views = [host("small", 0, slots=2, cores=True), host("big", 0, slots=5, cores=True), host("told", 0, slots=1)]
    assert got(place(demands, views, held, Rules(), 0)) == {
        "e0": ("told", "slot-0"),  # a person said that one may run there
        "e1": ("big", "slot-0", "slot-2", "slot-3"),
        "e2": ("small", "slot-0", "slot-1"),
    }


def test_a_job_of_a_queue_is_one_whatever_it_asks_for() -> None:
    queue = host("q", 0, slots=2, queue=True)
    demands = [Demand("a", slots=9), Demand("b", slots=9, others=True)]
    assert got(place(demands, [queue], [], Rules(), 0)) == {"a": ("q", "slot-0"), "b": ("q", "slot-1")}


def test_a_queue_that_takes_fewer_jobs_than_before_counts_all_that_it_has():
    held = [Held("q", "slot-7", "x", None), Held("q", "slot-9", "y", None)]
    queue = host("q", 0, slots=3, queue=True)
    assert got(place([Demand("a"), Demand("b")], [queue], held, Rules(), 0)) == {"a": ("q", "slot-0")}
    for slots in (2, 0):
        full = place([Demand("a"), whole("b")], [replace(queue, slots=slots)], held, Rules(), 0)
        assert (full.assignments, full.never) == ((), frozenset())


def test_hosts_are_filled_evenly_the_faster_one_first() -> None:
    hosts = [host("slow", 4, factor=2.0), host("quick", 4, factor=0.5), host("mid", 4)]
    assert one(whole("a"), *hosts) == "quick/GPU-quick-0"
    assert load(place([whole(f"e{i}") for i in range(6)], hosts, [], Rules(), 0)) == {"slow": 2, "quick": 2, "mid": 2}
    shared = place([Demand(f"e{i}", 1, 10) for i in range(6)], hosts, [], SHARE, 0)
    assert load(shared) == {"slow": 2, "quick": 2, "mid": 2}
    assert len({a.devices for a in shared.assignments}) == 6
    assert load(place([Demand(f"e{i}") for i in range(6)], hosts, [], Rules(), 0)) == {"slow": 2, "quick": 2, "mid": 2}


def test_a_retry_waits_for_its_back_off_and_blocks_nobody() -> None:
    placement = place([whole("a", not_before=130), whole("b")], [host("h", 1)], [], Rules(), 100)
    assert got(placement) == {"b": ("h", "GPU-h-0")}
    assert placement.reasons["a"] == "waits: its retry may start in 30 s"
    assert placement.waits == "1 wait: 1 for the back-off of a retry"


def test_older_ones_go_first_then_wide_then_long_ones_and_equal_ones_as_planned() -> None:
    demands = [
        whole("new", 2, waiting_since=9000),
        whole("short", seconds=60, waiting_since=4000),
        whole("first", seconds=5000, waiting_since=4001),
        whole("second", seconds=5100, waiting_since=3900),
        whole("wide", 2, waiting_since=4100),
    ]
    held: list[Held] = []
    order = []
    for _ in demands:
        left = [d for d in demands if d.exp_id not in order]
        # A host as wide as the widest, empty each time.
        order.append(place(left, [host("h", 2)], held, Rules(), 10_000).assignments[0].exp_id)
    assert order == ["wide", "first", "second", "short", "new"]


def test_of_two_with_one_id_only_the_first_is_placed() -> None:
    assert len(place([whole("a"), whole("a")], [host("h")], [], Rules(), 0).assignments) == 1


def test_two_hosts_of_one_name_are_refused() -> None:
    with pytest.raises(Refused, match="2 hosts called 'h'"):
        place([whole("a")], [host("h"), host("h")], [], Rules(), 0)


def test_a_gpu_that_was_moved_to_another_host_is_used_there() -> None:
    here = host("h", 1)
    before = replace(
        here, host="before", gpus=tuple(replace(g, problem="has vanished", missing=True) for g in here.gpus)
    )
    assert got(place([whole("a")], [before, here], [], Rules(), 0)) == {"a": ("h", "GPU-h-0")}


def test_one_machine_under_two_names_is_used_once() -> None:
    twin = replace(host("h", 1), host="twin")
    placement = place([whole("a"), whole("b")], [host("h", 1), twin], [], Rules(), 0)
    assert got(placement) == {"a": ("h", "GPU-h-0")}
    assert "1 the same as on h" in placement.reasons["b"]
    elsewhere = lease(placement.assignments[0], whole("a"), shared=False)
    assert got(place([whole("b")], [twin], elsewhere, Rules(), 0)) == {}


def test_entries_that_mean_nothing_are_named() -> None:
    rules = Rules(reserve=frozenset({"0", "9", "GPU-typo"}), avoid=("h", "x:1", "*A100*", "*H100*"))
    assert unmatched(rules, [host("h")]) == ["reserve: 9", "reserve: GPU-typo", "avoid: x:1", "avoid: *H100*"]
    assert unmatched(rules, [host("h"), host("k", problem="unreachable")]) == []


@pytest.mark.parametrize("rules", [ALONE, SHARE])
def test_who_may_take_any_time_counts_as_the_longest(rules: Rules) -> None:
    demands = [Demand("short", 1, 30_000, seconds=60.0), Demand("long", 1, 30_000, seconds=9_000.0)]
    demands.insert(1, Demand("unknown", 1, 30_000))
    hosts = [host("h", 1)]
    first = got(place(demands, hosts, [], rules, 100.0))
    second = got(place(demands[:1] + demands[2:], hosts, [], rules, 100.0))
    assert next(iter(first)) == "unknown"
    assert next(iter(second)) == "long"
