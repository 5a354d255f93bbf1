"""The launcher contract over a real Slurm cluster."""

import os
from collections.abc import Callable, Iterator

import pytest
from contract.launcher_contract import LauncherContract

from prefect_campaign.launch.slurm import SlurmLauncher
from prefect_campaign.launch.slurm_settings import SlurmSettings


class TestSlurmLauncher(LauncherContract):
    @pytest.fixture
    def new_launcher(self) -> Iterator[Callable[[], SlurmLauncher]]:
        made: list[SlurmLauncher] = []

        def make() -> SlurmLauncher:
            settings = SlurmSettings("lab", conf=os.environ["SLURM_CONF"], record_seconds=3)
            made.append(SlurmLauncher(settings, poll_seconds=0.2))
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()
