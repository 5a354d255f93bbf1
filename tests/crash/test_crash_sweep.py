"""SIGKILL at every crash point of the engine, and at random moments: nothing trained twice, nothing lost."""

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from crash.gpu_points import GPU_POINTS, SSH_POINTS, STARTED_POINTS, STOPPED_POINTS
from crash.promises import (
    ATTEMPTS,
    ENGINE_POINTS,
    FLOW_POINTS,
    SWEPT_PASSAGES,
    check_promises,
    check_trainings,
    side_file,
    small_campaign,
)
from crash.queue_points import CONTAINER_POINTS, QUEUE_POINTS
from e2e.world import Done, World

from prefect_campaign.model.crash import CRASH_POINTS

DRIVER = Path(__file__).with_name("drive.py")
PASSAGES = [(name, n) for name, passed in ENGINE_POINTS.items() for n in range(1, passed + 1)]
KILLS = 5
"""Random kills per seed."""


def drive(world: World, spec: Path, **env: str) -> Done:
    """One run of the driver."""
    return world.run(sys.executable, DRIVER, spec, **env)


def drive_to_the_end(world: World, spec: Path) -> None:
    """An unarmed run, which must complete the campaign whatever is left of the runs before."""
    done = drive(world, spec)
    assert done.code == 0, done.err
    check_promises(world)


def test_every_point_is_swept() -> None:
    on_gpus = {*GPU_POINTS, *SSH_POINTS, *STARTED_POINTS, *STOPPED_POINTS}
    assert {*ENGINE_POINTS, *FLOW_POINTS, *on_gpus, *QUEUE_POINTS, *CONTAINER_POINTS} == set(CRASH_POINTS)


def test_the_check_of_trainings_can_fail() -> None:
    """A training that happened twice, not to its end, not at all, or beside another of the same experiment."""
    true = []
    for exp_id, attempts in ATTEMPTS.items():
        for a in range(1, attempts + 1):
            true += [f"start {exp_id} a{a}", f"{'done' if a == attempts else 'failed'} {exp_id} a{a}"]
    check_trainings(true)
    beside = [*true[:2], true[2], true[4], true[3], *true[5:]]
    for wrong in (true + true[:2], true[2:], true[:-1], true[::-1], beside):
        with pytest.raises(AssertionError):
            check_trainings(wrong)


def test_without_a_crash(offline: World) -> None:
    """The run that all others are compared with; it also says which points there are to crash at."""
    spec = small_campaign(offline)
    done = drive(offline, spec, CRASH_PASSAGES=str(offline.folder / "passages"))
    assert done.code == 0, done.err
    check_promises(offline)
    passed = Counter((offline.folder / "passages").read_text().split())
    assert {name: min(n, SWEPT_PASSAGES) for name, n in passed.items()} == ENGINE_POINTS
    before = side_file(offline).read_text()
    drive_to_the_end(offline, spec)
    assert side_file(offline).read_text() == before


@pytest.mark.parametrize(("name", "n"), PASSAGES)
def test_killed_once(offline: World, name: str, n: int) -> None:
    spec = small_campaign(offline)
    done = drive(offline, spec, CAMPAIGN_CRASH_AT=f"{name}:{n}")
    assert done.code == -signal.SIGKILL, f"{name} was not passed {n} times\n{done.err}"
    assert offline.row("small")["status"] == "open"
    drive_to_the_end(offline, spec)


@pytest.mark.parametrize("name", ["intent_recorded", "job_spawned", "outcome_recorded"])
def test_killed_in_every_run(offline: World, name: str) -> None:
    """A crash after a crash: each run gets one step further, none may repeat the step before."""
    spec = small_campaign(offline)
    most = sum(ENGINE_POINTS.values())
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        codes.append(drive(offline, spec, CAMPAIGN_CRASH_AT=name).code)
        assert len(codes) <= most, f"{name}: the campaign does not get on"
    assert codes[-1] == 0
    assert len(codes) > 2
    check_promises(offline)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(offline: World, seed: int) -> None:
    spec = small_campaign(offline)
    moments = random.Random(seed)
    for _ in range(KILLS):
        delay = moments.uniform(0.0, 0.6)
        with offline.driving(DRIVER, spec) as process:
            time.sleep(delay)
        assert process.returncode in (-signal.SIGKILL, 0)
    drive_to_the_end(offline, spec)
