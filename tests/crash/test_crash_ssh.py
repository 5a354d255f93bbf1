"""SIGKILL while a host that is reached by SSH is checked, sent the code, and runs experiments."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from crash.gpu_campaigns import KILLS, RANDOM_SEEDS, Lab
from crash.gpu_points import SSH_POINTS, cases
from crash.gpu_promises import check_promises
from e2e.world import World
from nvidia_smi_shim import shim
from ssh_rig import Sshd, running

pytestmark = pytest.mark.crash

FAR = {"launcher": ["ssh/h1"], "policy": {"dry_run": ["--dry-run"]}}
VALUES = {"p1_1_baseline_s0": 1.0, "p1_3_main_s0": 3.0}


@pytest.fixture
def lab(offline: World) -> Iterator[Lab]:
    sshd = Sshd(offline.folder / "h1", "h1")
    sshd.program_on_path("nvidia-smi", shim(["GPU-1a", "GPU-1b"]))
    with running(sshd):
        yield Lab(offline, hosts=[sshd.host()])


def spec(lab: Lab) -> Path:
    """Two experiments on two GPUs, after a dry run."""
    return lab.campaign("far", sweep={"grid": {"method": [1, 3], "seed": [0]}}, **FAR)


def wide(lab: Lab) -> Path:
    """One experiment that needs both of them, after a dry run that does."""
    sweep = {"grid": {"method": [1], "seed": [0]}}
    return lab.campaign("wide", sweep=sweep, groups=None, resources={"gpus": 2}, **FAR)


def check(lab: Lab, checks: Sequence[int]) -> None:
    """Both campaigns, once they are over; the dry runs of both are counted together."""
    check_promises(lab, "far", VALUES, checks=checks)
    check_promises(lab, "wide", {"p1_1_main_s0": 1.0}, checks=checks)


def test_without_a_crash(lab: Lab) -> None:
    """The run that all others are compared with: it passes each point so often."""
    passed = lab.passages(far := spec(lab))
    check_promises(lab, "far", VALUES, checks=[1])
    assert [name for name, passages in SSH_POINTS.items() if passed[name] < max(passages)] == []
    before = lab.side_file.read_text()
    lab.drive_to_the_end(far)
    assert lab.side_file.read_text() == before


@pytest.mark.parametrize("point", cases(SSH_POINTS))
def test_killed_once(lab: Lab, point: str) -> None:
    lab.crash(point, far := spec(lab))
    lab.drive_to_the_end(far)
    # What the dry run came to is on record only with the rest of its check.
    check_promises(lab, "far", VALUES, checks=[2] if point == "check_job_closed:2" else [1])


@pytest.mark.parametrize(("point", "checks"), [("job_spawned:2", [2, 3]), ("intent_recorded:1", [2])])
def test_killed_while_another_campaign_wants_its_gpus(lab: Lab, point: str, checks: list[int]) -> None:
    """That one comes first, and gets them once nothing runs there: a dry run that nobody looks after ends first."""
    specs = wide(lab), spec(lab)
    lab.crash(point, specs[1])
    lab.drive_to_the_end(*specs)
    check(lab, checks)


def test_killed_while_it_is_checked_for_another_campaign_too(lab: Lab) -> None:
    """One that would be checked in just the same way takes over what the dead one began: there is one dry run."""
    other = lab.campaign("other", sweep={"grid": {"method": [4], "seed": [0]}}, groups=None, **FAR)
    lab.crash("job_spawned:2", far := spec(lab))
    lab.drive_to_the_end(other, far)
    check_promises(lab, "far", VALUES, checks=[1])
    check_promises(lab, "other", {"p1_4_main_s0": 4.0}, checks=[1])


@pytest.mark.parametrize("seed", RANDOM_SEEDS)
def test_killed_at_random_moments(lab: Lab, seed: int) -> None:
    """Of two processes, each with a campaign of its own, that want the same GPUs of one host."""
    lab.kill_at_random(spec(lab), wide(lab), dice=random.Random(seed))
    check(lab, range(2, 2 * KILLS + 3))
