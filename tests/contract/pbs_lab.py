"""A fake PBS, a clock that tests move, and launchers for both (fixtures)."""

import time
from pathlib import Path

import pytest
from contract.launchers import make_spec, wait_until
from pbs_rig import FakePbs

from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here

PROGRAMS = ("qsub", "qstat", "qdel", "qselect")


class Clock:
    def __init__(self) -> None:
        self.now = self._began = time.time()

    def __call__(self) -> float:
        return self.now

    def steady(self) -> float:
        """Goes by itself, and is moved along."""
        return time.monotonic() + self.now - self._began


@pytest.fixture(params=["with qselect", "without qselect"])
def pbs(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePbs:
    fake = FakePbs(tmp_path / "pbs", PROGRAMS if request.param == "with qselect" else PROGRAMS[:3])
    monkeypatch.setenv("PATH", str(fake.bin), prepend=":")
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_launcher(pbs: FakePbs, clock: Clock):
    made = []

    def make(**changes) -> QueueLauncher:
        place = Here("lab")
        options = {"max_jobs": 50, "poll_seconds": 0.0, "clock": clock, "steady": clock.steady, **changes}
        made.append(QueueLauncher("lab", PbsScheduler("lab", PbsRequest(), place.run), place, **options))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def launcher(new_launcher) -> QueueLauncher:
    return new_launcher()


@pytest.fixture
def spec_of(tmp_path: Path):
    def build(*argv: str, name: str = "e", **changes):
        return make_spec(tmp_path / "runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", **changes)

    return build


async def run_and_note(launcher, spec):
    """A job that has begun; its handle."""
    handle = await launcher.submit(spec)
    await wait_until((Path(spec.run_dir) / "claim" / "job").exists)
    return handle
