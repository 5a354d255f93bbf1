"""The launcher contract over a small fake of Slurm."""

from collections.abc import Callable, Iterator

import pytest
from contract.queue_contract import QueueContract
from slurm_fake import FakeSlurm

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings


class TestSlurmLauncherOnAFake(QueueContract):
    @pytest.fixture
    def new_launcher(self, tmp_path_factory) -> Iterator[Callable[[], SlurmLauncher]]:
        fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
        made: list[SlurmLauncher] = []

        def make() -> SlurmLauncher:
            settings = SlurmSettings("lab", programs=str(fake.bin), record_seconds=3)
            made.append(SlurmLauncher(settings, poll_seconds=0.2))
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()
