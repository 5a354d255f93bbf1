"""SIGKILL while memory is probed, experiments share GPUs, and one needs two: what a dead one held comes back."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from crash.gpu_campaigns import JOB_MB, KILLS, RANDOM_SEEDS, Lab
from crash.gpu_points import FREED_POINTS, GPU_POINTS, HELD_POINTS, cases
from crash.gpu_promises import Line, check_devices, check_held, check_history, check_promises, check_trainings
from driver import Driver, gpus
from e2e.world import PATIENCE, World, until

pytestmark = pytest.mark.crash

SEEDS = [0, 1, 2]
SHARING = {f"p1_{m}_{group}_s{s}": float(m) for m, group in ((1, "baseline"), (2, "main")) for s in SEEDS}
WIDE = {"p1_1_main_s0": 1.0}


@pytest.fixture
def lab(offline: World, driver: Driver) -> Lab:
    driver.set(gpus(2))
    return Lab(offline, driver)


def sharing(lab: Lab) -> Path:
    """Six experiments of one shape on two GPUs, after a probe; four have room at once."""
    return lab.campaign(
        "sharing",
        sweep={"grid": {"method": [1, 2], "seed": SEEDS}},
        resources={"gpus": 1, "vram_mb": JOB_MB, "vram_params": [], "probe": ["--probe"]},
        policy={"max_parallel": 6, "gpus": {"share": True}},
    )


def wide(lab: Lab) -> Path:
    """One experiment that needs both GPUs."""
    return lab.campaign("wide", sweep={"grid": {"method": [1], "seed": [0]}}, groups=None, resources={"gpus": 2})


def check(lab: Lab, probes: Sequence[int]) -> None:
    """Both campaigns, once they are over."""
    check_promises(lab, "sharing", SHARING, probes=probes)
    check_promises(lab, "wide", WIDE)


def test_without_a_crash(lab: Lab) -> None:
    """The run that all others are compared with: two share a GPU, and each point is passed so often."""
    specs = sharing(lab), wide(lab)
    passed = lab.passages(*specs)
    check(lab, [1])
    assert [name for name, passages in GPU_POINTS.items() if passed[name] < max(passages)] == []
    assert most_on_one(lab) == 2
    before = lab.side_file.read_text()
    lab.drive_to_the_end(*specs)
    assert lab.side_file.read_text() == before


@pytest.mark.parametrize("point", cases(GPU_POINTS))
def test_killed_once(lab: Lab, point: str) -> None:
    lab.crash(point, spec := sharing(lab))
    lab.drive_to_the_end(spec, wide(lab))
    check(lab, [1])


@pytest.mark.parametrize("point", cases(FREED_POINTS))
def test_killed_before_it_used_what_another_campaign_wants(lab: Lab, point: str) -> None:
    """That one comes first, and gets it."""
    specs = wide(lab), sharing(lab)
    lab.crash(point, specs[1])
    lab.drive_to_the_end(*specs)
    check(lab, [1])


@pytest.mark.parametrize(("point", "kind"), HELD_POINTS.items())
def test_killed_while_it_uses_what_another_campaign_wants(lab: Lab, point: str, kind: str) -> None:
    """That one gets it once nothing runs there any more. A probe whose end nobody saw is done again."""
    specs = wide(lab), sharing(lab)
    lab.hold_jobs(kind)
    lab.crash(point, specs[1])
    with lab.driving(specs[0]) as process:
        until(lambda: lab.world.rows("SELECT * FROM waits"), "the other campaign wants GPUs")
        time.sleep(0.5)
        assert lab.world.states("only", "wide") == ["ready"]
        lab.let_jobs_go(kind)
        assert process.wait(PATIENCE) == 0
    lab.drive_to_the_end(*specs)
    check(lab, [1, 2])


@pytest.mark.parametrize("point", ["intent_recorded", "job_spawned"])
def test_killed_with_all_gpus_while_another_campaign_wants_one(lab: Lab, point: str) -> None:
    specs = sharing(lab), wide(lab)
    lab.crash(point, specs[1])
    lab.drive_to_the_end(*specs)
    check(lab, [1])


@pytest.mark.parametrize("seed", RANDOM_SEEDS)
def test_killed_at_random_moments(lab: Lab, seed: int) -> None:
    """Of two processes, each with a campaign of its own, that want the same GPUs."""
    lab.kill_at_random(sharing(lab), wide(lab), dice=random.Random(seed))
    check(lab, range(1, KILLS + 2))


def most_on_one(lab: Lab) -> int:
    """How many leases there were on one GPU at a time, at most."""
    held: Counter[str] = Counter()
    most = 0
    for row in lab.world.rows("SELECT * FROM lease_history ORDER BY id"):
        held[row["device"]] += 1 if row["held"] else -1
        most = max(most, *held.values())
    return most


def test_the_check_of_trainings_can_fail() -> None:
    """One that happened twice, not to its end, not at all, once too often, or beside itself."""
    start, failed, done = (f"{what} train e aN t 0 GPU-1" for what in ("start", "failed", "done"))
    right = [start, failed, start, done]

    def checked(lines: list[str]) -> None:
        check_trainings(map(Line.read, lines), {"e": ["failed", "done"]})

    checked(right)
    for wrong in ([*right, start, done], right[:-1], right[2:], [], right[:2] * 2, [start, start, failed, done]):
        with pytest.raises(AssertionError):
            checked(wrong)


def test_the_check_of_devices_can_fail() -> None:
    """Three where two fit, one beside a probe or beside one that has several GPUs, one that did not end."""

    def lines(*texts: str) -> list[Line]:
        return [Line.read(text) for text in texts]

    one, two, three = (f"start train e{n} a1 t{n} 0 GPU-1" for n in range(3))
    ends = [f"done train e{n} a1 t{n} 0 GPU-1" for n in range(3)]
    check_devices(lines(one, two, ends[0], three, *ends[1:]))
    big = "start train big a1 b 0 GPU-0,GPU-1"
    probe = "start probe p a0 p 0 GPU-1"
    for wrong in ([one, two, three], [probe, one], [one, probe], [one, big], [one, two, ends[0]]):
        with pytest.raises(AssertionError):
            check_devices(lines(*wrong))


def test_the_check_of_leases_can_fail() -> None:
    """A third where two fit, one beside somebody who shares nothing, one that stays."""

    def lease(token: str, vram_mb: int | None = JOB_MB, *, held: int = 1, shared: int = 1) -> dict[str, object]:
        one = {"host": "h", "device": "GPU-1", "token": token, "vram_mb": vram_mb, "shared": shared}
        return {**one, "held": held}

    right = [lease("a"), lease("b"), lease("a", held=0), lease("c"), lease("b", held=0), lease("c", held=0)]
    check_history(right)
    for wrong in (
        [lease("a"), lease("b"), lease("c")],
        [lease("a"), lease("b", None)],
        [lease("a", None), lease("b")],
        [lease("a", shared=0), lease("b")],
    ):
        with pytest.raises(AssertionError):
            check_history([*wrong, *({**row, "held": 0} for row in wrong)])
    with pytest.raises(AssertionError):
        check_history(right[:-1])


@pytest.mark.parametrize(("start", "end"), [(9.0, 11.0), (11.0, 13.0)])
def test_the_check_of_what_jobs_held_can_fail(start: float, end: float) -> None:
    """A job that began before it had its lease, or did not end before that was given back."""
    history = [{"held": held, "token": "t", "device": "GPU-1", "at": at} for held, at in ((1, 10.0), (0, 12.0))]

    def lines(*times: float) -> list[Line]:
        return [Line.read(f"start train e a1 t {at} GPU-1") for at in times]

    check_held(lines(10.5, 11.5), history)
    with pytest.raises(AssertionError):
        check_held(lines(start, end), history)
    with pytest.raises(KeyError):
        check_held(lines(11.0), [])
