"""The launcher contract over a small vendor queue that is used by command templates alone, and its troubles."""

from collections.abc import Callable, Iterator

import pytest
from acme_rig import Acme, description
from contract.scheduler_contract import SchedulerContract

from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here

POLL = 0.02


@pytest.fixture
def acme(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Acme:
    made = Acme(tmp_path_factory.mktemp("acme"))
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


def make_launcher(**changes) -> QueueLauncher:
    place = Here("acme")
    options = {"max_jobs": 50, "poll_seconds": POLL, "patience": Patience(0.0, 0.0), **changes}
    return QueueLauncher("acme", CommandScheduler("acme", description(), place.run), place, **options)


class TestCommandLauncher(SchedulerContract):
    @pytest.fixture
    def new_launcher(self, acme: Acme) -> Iterator[Callable[[], QueueLauncher]]:
        made: list[QueueLauncher] = []

        def make() -> QueueLauncher:
            made.append(make_launcher())
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()

    @pytest.fixture
    def hurry(self, acme: Acme) -> Callable[[], None]:
        return lambda: acme.fail("kill_delay", "0.3")
