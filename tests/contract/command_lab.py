"""A small vendor queue, a clock that tests move, and launchers for both (fixtures)."""

import time
from pathlib import Path

import pytest
from acme_rig import Acme, description
from contract.launchers import make_spec

from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here

UNMARKED = r"^(?P<id>t-\d+) +(?P<state>\w+) +(?P<node>\S+) +\S+ +(?P<name>\S+)$"


class Clock:
    def __init__(self) -> None:
        self.now = self._began = time.time()

    def __call__(self) -> float:
        return self.now

    def steady(self) -> float:
        """Goes by itself, and is moved along."""
        return time.monotonic() + self.now - self._began


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acme:
    made = Acme(tmp_path / "acme")
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_launcher(acme: Acme, clock: Clock):
    made = []

    def make(**changes) -> QueueLauncher:
        place = Here("acme")
        scheduler = CommandScheduler("acme", description(**changes), place.run)
        options = {"max_jobs": 9, "poll_seconds": 0.0, "patience": Patience(unlisted=300)}
        made.append(QueueLauncher("acme", scheduler, place, clock=clock, steady=clock.steady, **options))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path):
    def build(*argv: str, name: str = "e", **changes):
        return make_spec(tmp_path / "runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", **changes)

    return build
