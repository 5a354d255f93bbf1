"""SIGKILL while an experiment waits for a GPU that somebody else uses: what people were asked and said still holds."""

import os
from pathlib import Path

import pytest
from crash.gpu_campaigns import Lab
from crash.gpu_points import STARTED_POINTS, STOPPED_POINTS, cases
from crash.gpu_promises import check_over, check_promises
from driver import Driver, gpus
from e2e.world import World

from prefect_campaign.ledger.alerts import ANYWAY, STOP

pytestmark = pytest.mark.crash

SWEEP = {"grid": {"method": [1], "seed": [0]}}


@pytest.fixture
def stranger(driver: Driver) -> Driver:
    """Somebody computes on the only GPU."""
    driver.set(gpus(1))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    return driver


def spec(lab: Lab) -> Path:
    """One experiment, which fits beside the stranger."""
    return lab.campaign("polite", sweep=SWEEP, groups=None, resources={"gpus": 1, "vram_mb": 4000})


def asked(lab: Lab) -> list[tuple[str, str, str]]:
    """Answer, who gave it, and effect of every alert; each was put, and answered, once."""
    said = lab.world.rows("SELECT * FROM events WHERE kind = 'alert'")
    assert len(said) == 1
    return [(r["answer"], r["answered_by"], r["effect"]) for r in lab.world.rows("SELECT * FROM alerts")]


@pytest.mark.parametrize("point", ["", *cases(STARTED_POINTS)])
def test_killed_before_it_starts_beside_somebody(offline: World, stranger: Driver, point: str) -> None:
    lab = Lab(offline, stranger, answer=ANYWAY)
    polite = spec(lab)
    if point:
        lab.crash(point, polite)
    lab.drive_to_the_end(polite)
    assert asked(lab) == [(ANYWAY, "tester", "start")]
    check_promises(lab, "polite", {"p1_1_main_s0": 1.0})


@pytest.mark.parametrize("point", cases(STOPPED_POINTS))
@pytest.mark.parametrize("free", [False, True], ids=["busy", "free"])
def test_killed_before_it_is_stopped(offline: World, stranger: Driver, point: str, free: bool) -> None:
    """Whoever said Stop is obeyed, also if the GPU has become free while nobody drove the campaign."""
    lab = Lab(offline, stranger, answer=STOP)
    polite = spec(lab)
    lab.crash(point, polite)
    if free:
        stranger.stop(os.getpid())
    lab.drive_to_the_end(polite)
    assert asked(lab) == [(STOP, "tester", "stop")]
    assert offline.states("only", "polite") == ["on_hold"]
    assert not lab.side_file.exists()
    assert offline.rows("SELECT * FROM leases") == []
    check_over(lab.world, "polite")


def test_killed_before_it_is_stopped_and_its_gpu_given_to_others(offline: World, stranger: Driver) -> None:
    lab = Lab(offline, stranger, answer=STOP)
    polite, other = spec(lab), lab.campaign("other", sweep=SWEEP, groups=None)
    lab.crash("answer_taken", polite)
    stranger.stop(os.getpid())
    lab.drive_to_the_end(other, polite)
    assert offline.states("only", "other") == ["done"]
    assert offline.states("only", "polite") == ["on_hold"]
    assert asked(lab) == [(STOP, "tester", "stop")]
