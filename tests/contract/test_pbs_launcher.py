"""The launcher contract over a fake PBS that really runs jobs."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from contract.launchers import make_spec
from contract.scheduler_contract import SchedulerContract
from pbs_rig import FakePbs

from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest, pbs_files
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here

POLL = 0.02


@pytest.fixture
def pbs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakePbs:
    fake = FakePbs(tmp_path_factory.mktemp("pbs"))
    monkeypatch.setenv("PATH", str(fake.bin), prepend=":")
    return fake


def make_launcher(**changes) -> QueueLauncher:
    place = Here("lab")
    patience = Patience(unlisted=0.0, record=0.0)
    options = {"max_jobs": 50, "poll_seconds": POLL, "patience": patience, **changes}
    return QueueLauncher("lab", PbsScheduler("lab", PbsRequest(), place.run), place, **options)


class TestPbsLauncher(SchedulerContract):
    @pytest.fixture
    def new_launcher(self, pbs: FakePbs) -> Iterator[Callable[[], QueueLauncher]]:
        pbs.fail("kill_delay", "20")
        made: list[QueueLauncher] = []

        def make() -> QueueLauncher:
            made.append(make_launcher())
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()

    @pytest.fixture
    def hurry(self, pbs: FakePbs) -> Callable[[], None]:
        return lambda: pbs.fail("kill_delay", "0.3")


@pytest.mark.parametrize("folder", ["two words", "it's", "new\nline", "a:b"])
def test_scripts_are_good_sh_whatever_the_folder(tmp_path, folder) -> None:
    spec = make_spec(tmp_path / folder / "e" / "a1", "true")
    for text in pbs_files(spec, PbsRequest(modules=("cuda/12", "python"))).values():
        subprocess.run(["sh", "-n"], input=text.encode(), check=True)
