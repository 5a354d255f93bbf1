"""The launcher contract over a programmable Docker engine, by itself and with the local launcher behind it."""

from collections.abc import Callable, Iterator

import pytest
from contract.launcher_contract import LauncherContract
from docker_lab import Lab
from fake_docker import FakeEngine

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.local import LocalLauncher


class TestDockerLauncherOverAFake(LauncherContract):
    @pytest.fixture
    def new_launcher(self, lab: Lab) -> Callable[[], DockerLauncher]:
        return lab.launcher


class TestDockerFirst(LauncherContract):
    @pytest.fixture
    def new_launcher(self, lab: Lab) -> Iterator[Callable[[], Either]]:
        made = []

        def make() -> Either:
            made.append(Either([lab.launcher(), LocalLauncher()]))
            return made[-1]

        yield make
        for one in made:
            one.close()


class TestLocalWhereThereIsNoEngine(LauncherContract):
    @pytest.fixture
    def new_launcher(self, lab: Lab, fake_docker: FakeEngine) -> Iterator[Callable[[], Either]]:
        fake_docker.stop()
        made = []

        def make() -> Either:
            made.append(Either([lab.launcher(), LocalLauncher()]))
            return made[-1]

        yield make
        for one in made:
            one.close()
