"""Those who wait: nobody for ever, nobody without a reason that says where and how much."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from unit.placement.placement_lab import foreign, got, gpu, host, lease, whole

from prefect_campaign.placement.demand import Demand, Held, Rules
from prefect_campaign.placement.place import LATE_SECONDS, place

SHARE = Rules(share=True)
LASTING = 1000.0, 2100.0
"""Seconds of a narrow one, at least and at most."""


def endless(
    wide: Demand,
    narrow: Callable[[int, float], Demand],
    rules: Rules,
    *,
    told: bool,
    hosts: int = 2,
) -> float:
    """When the wide one starts although there are always more narrow ones than fit; each ends at another time."""
    views = [host(f"h{i}", 4, cores=True) for i in range(hosts)]
    running: list[tuple[float, list[Held]]] = []
    count, now = 0, 0.0
    queue: list[Demand] = []
    # Narrow ones end one by one, never four at once.
    for step in range(2_000):
        now = step * 100.0
        running = [(end, leases) for end, leases in running if end > now]
        while len(queue) < 20:
            count += 1
            queue.append(narrow(count, now))
        wanted = [*queue, wide] if now >= wide.waiting_since else queue
        for a in place(wanted, views, [h for _, one in running for h in one], rules, now).assignments:
            if a.exp_id == wide.exp_id:
                return now - wide.waiting_since
            demand = next(d for d in queue if d.exp_id == a.exp_id)
            queue.remove(demand)
            end = now + LASTING[0] + 137 * (int(demand.exp_id[1:]) % 9)
            running.append((end, lease(a, demand, shared=rules.share, until=end if told else None)))
    raise AssertionError("the wide one never started")


@pytest.mark.parametrize("told", [True, False], ids=["durations known", "unknown"])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("gpus", [1, 3, 4])
def test_a_wide_one_starts_however_many_narrow_ones_keep_coming(gpus: int, share: bool, told: bool) -> None:
    def narrow(i: int, now: float) -> Demand:
        return Demand(f"n{i}", 1, 20_000, waiting_since=now, seconds=1000.0 if told else None)

    wide = Demand("wide", gpus, 60_000, waiting_since=3_500.0, seconds=500.0 if told else None)
    # Those of its own hour come to an end; then at most what runs has to end.
    assert endless(wide, narrow, Rules(share=share), told=told) <= 3_600 + 4 * LASTING[1]


@pytest.mark.parametrize("others", [False, True])
def test_one_that_needs_several_slots_starts_however_many_small_ones_keep_coming(others: bool) -> None:
    wide = Demand("wide", slots=4, waiting_since=3_500.0, others=others)
    small = endless(wide, lambda i, now: Demand(f"n{i}", waiting_since=now), Rules(), told=False)
    assert small <= 3_600 + 4 * LASTING[1]


def test_a_slot_of_a_machine_that_is_away_is_not_said_to_be_free() -> None:
    away = [host("h1", 4, problem="does not answer"), host("h2", 4, problem="is checked")]
    assert place([Demand("e1")], away, [], Rules(), 0.0).waits == "1 wait: 1 for h1 (does not answer, and 1 more)"
    one_up = [away[0], host("h2", 0, slots=1)]
    found = place([Demand("e1"), Demand("e2")], one_up, [], Rules(), 0.0)
    assert found.waits == "1 wait: 1 for a free slot (1 in all, 1 leased)"


def test_slots_that_are_kept_and_why() -> None:
    held = [Held("h", f"slot-{i}", "x", None) for i in range(11)]
    demands = [Demand("new", slots=1, waiting_since=7_200.0), Demand("wide", slots=8), Demand("old", slots=1)]
    placement = place(demands, [host("h", 0, slots=16, cores=True)], held, Rules(), 7_300.0)
    assert got(placement) == {"old": ("h", "slot-11")}
    assert placement.reasons["wide"] == "waits: needs 8 free slots; h: 4 of 16 slots free; slots of h are kept for it"
    assert placement.reasons["new"] == (
        "waits: needs a free slot; h: 4 of 16 slots free, kept for wide, which goes first"
    )
    assert placement.waits == (
        "2 wait: 1 for 8 free slots (16 in all, 12 leased), 1 for a free slot (16 in all, 12 leased)"
    )


def test_an_old_narrow_one_starts_however_many_wide_ones_keep_coming() -> None:
    def wide(i: int, now: float) -> Demand:
        return whole(f"w{i}", 4, waiting_since=now, seconds=1000.0)

    # At most 30 wide ones join in its own hour; they run two at a time.
    assert endless(whole("narrow", waiting_since=0.0), wide, Rules(), told=True) <= 15 * LASTING[1]


def test_short_ones_start_on_kept_gpus_if_they_end_in_time() -> None:
    held = [Held("h", "GPU-h-0", "x", None, until=1_000.0)]
    demands = [whole("wide", 2), whole("short", seconds=899.0), whole("long", seconds=901.0), whole("unknown")]
    assert got(place(demands, [host("h")], held, Rules(), 100.0)) == {"short": ("h", "GPU-h-1")}
    assert got(place([d for d in demands if d.exp_id != "short"], [host("h")], held, Rules(), 100.0)) == {}
    # A slow host takes longer.
    slow = [host("h", factor=2.0)]
    assert got(place(demands, slow, held, Rules(), 100.0)) == {}


def test_whoever_fits_beside_it_may_start_on_a_kept_gpu() -> None:
    held = [Held("h", "GPU-h-0", "x", 50_000, shared=True, until=1_000.0)]
    # 80 000 - 1.2 x 50 000 = 20 000 are left beside the wide one.
    demands = [
        Demand("wide", 2, 50_000, seconds=9e6),
        Demand("a", 1, 15_000, seconds=9_000.0),
        Demand("b", 1, 6_000, seconds=9_000.0),
    ]
    found = got(place(demands, [host("h")], held, SHARE, 100.0))
    assert set(found) == {"a"} or set(found) == {"a", "b"}
    assert not ({"a", "b"} <= set(found) and found["a"] == found["b"])
    big = replace(demands[1], vram_mb=20_001)
    assert got(place([demands[0], big], [host("h")], held, SHARE, 100.0)) == {}


def test_nobody_waits_for_gpus_that_people_use() -> None:
    views = [replace(host("h"), gpus=(gpu("h", 0), gpu("h", 1, used_mb=5_000, processes=(foreign(),))))]
    placement = place([whole("wide", 2), whole("narrow")], views, [], Rules(), 0.0)
    assert got(placement) == {"narrow": ("h", "GPU-h-0")}
    assert placement.reasons["wide"] == ("waits: needs 2 whole GPUs; h: none of 2 GPUs (1 leased, 1 used by others)")


def test_kept_free_gpus_do_not_keep_a_wide_one_waiting_for_ever() -> None:
    views = [host("h", 4)]
    held = [Held("h", f"GPU-h-{i}", f"x{i}", None, until=1_000.0) for i in range(2)]
    demands = [whole("wide", 3), whole("long", seconds=5_000.0)]
    # One more lease now would leave two of the four when the others have ended: too few with one kept free.
    assert got(place(demands, views, held, Rules(keep_free=1), 0.0)) == {}
    assert got(place(demands[1:], views, held, Rules(keep_free=1), 0.0)) == {"long": ("h", "GPU-h-2")}


def test_a_wide_one_waits_until_enough_gpus_are_left_free_for_people() -> None:
    held = [Held("h", "GPU-h-0", "x", None, until=1_000.0), Held("h", "GPU-h-1", "y", None, until=5_000.0)]
    demands = [whole("wide", 2), whole("long", seconds=901.0), whole("short", seconds=899.0)]
    # Two are free, but only one may be taken; when the first lease has ended, two may.
    assert got(place(demands, [host("h", 4)], held, Rules(keep_free=1), 100.0)) == {"short": ("h", "GPU-h-2")}


@pytest.mark.parametrize(
    ("demand", "rules", "text"),
    [
        (whole("a", 4), Rules(), "can never run: needs 4 GPUs on one host, the most is 2"),
        (
            Demand("a", 1, 70_000),
            Rules(),
            "can never run: needs 1 GPU with 82 GB free on one host, the most there is 78.1 GB each",
        ),
        (
            whole("a", 2),
            Rules(reserve=frozenset({"0"})),
            "can never run: needs 2 GPUs on one host, the most is 1 (h: 1 reserved; k: 1 reserved)",
        ),
        (
            whole("a"),
            Rules(keep_free=2),
            "can never run: needs 1 GPU, and there is none that may be used "
            "(h: 2 kept free for people; k: 2 kept free for people)",
        ),
        (whole("a"), Rules(avoid=("h", "k")), "can never run: needs 1 GPU, and there is none that may be used "
        "(h: avoided; k: avoided)"),
    ],
)  # fmt: skip
def test_what_can_never_run_says_so_and_blocks_nobody(demand: Demand, rules: Rules, text: str) -> None:
    narrow = [] if "none" in text else [replace(whole(f"b{i}"), seconds=9e9) for i in range(2)]
    placement = place([demand, *narrow], [host("h"), host("k")], [], rules, 0.0)
    assert placement.never == {"a"}
    assert placement.reasons["a"] == text
    assert len(placement.assignments) == len(narrow)
    assert placement.waits == "1 wait: 1 can never run"


def test_without_slots_an_experiment_without_gpus_can_never_run() -> None:
    placement = place([Demand("a")], [host("h", slots=0)], [], Rules(), 0.0)
    assert placement.never == {"a"}
    assert placement.reasons["a"] == "can never run: no host has slots for experiments without GPUs"


def test_nothing_is_impossible_where_no_host_is_known() -> None:
    placement = place([whole("a")], [], [], Rules(), 0.0)
    assert placement.never == frozenset()
    assert placement.reasons["a"] == "waits: needs 1 whole GPU; no host is known"


def test_reasons_name_every_host_and_its_numbers() -> None:
    views = [
        replace(host("h1"), gpus=(gpu("h1", 0, used_mb=70_000, processes=(foreign(),)), gpu("h1", 1))),
        host("h2", problem="drained"),
        host("h3", 3, keep_free=2, reserve=frozenset({"2"})),
    ]
    placement = place([Demand("a", 2, 18_773)], views, [], SHARE, 0.0)
    assert placement.reasons["a"] == (
        "waits: needs 2 GPUs with 22 GB free; h1: 1 of 2 GPUs (1 with at most 9.8 GB free); h2: drained; "
        "h3: none of 3 GPUs (2 kept free for people, 1 reserved)"
    )
    assert placement.waits == "1 wait: 1 for 2 GPUs with 22 GB free"


def test_hosts_of_which_the_same_is_to_be_said_are_named_together() -> None:
    views = [host(f"h{n}", problem=f"host h{n} (ann@h{n}.lab): does not answer") for n in range(12)]
    views += [host("k1", problem="drained"), host("k2", problem="drained")]
    assert place([whole("a")], views, [], Rules(), 0.0).reasons["a"] == (
        "waits: needs 1 whole GPU; h0, h1, h2, h3, h4, h5, h6, h7 and 4 more: does not answer; k1, k2: drained"
    )


def test_reasons_say_for_whom_gpus_are_kept() -> None:
    held = [Held("h", "GPU-h-0", "x", None, until=1_000.0)]
    placement = place([whole("wide", 2), whole("long", seconds=5_000.0)], [host("h")], held, Rules(), 0.0)
    assert placement.reasons["wide"].endswith("GPUs of h are kept for it")
    assert placement.reasons["long"] == "waits: needs 1 whole GPU; h: 1 free, kept for wide, which goes first"


@pytest.mark.parametrize(("late", "passes"), [(LATE_SECONDS - 1, False), (LATE_SECONDS + 1, True)])
def test_gpus_are_not_kept_idle_for_ever_behind_one_that_is_late(late: float, passes: bool) -> None:
    now = 1_000_000.0
    held = [Held("h", "GPU-h-0", "x", None, until=now - late)]
    demands = [whole("wide", 2, waiting_since=now), whole("narrow", 1, waiting_since=now, seconds=60.0)]
    placed = got(place(demands, [host("h", 2)], held, Rules(), now))
    assert ("narrow" in placed) is passes
