"""The launcher contract over real processes of this machine."""

from collections.abc import Callable, Iterator

import pytest
from contract.launcher_contract import LauncherContract

from prefect_campaign.launch.local import LocalLauncher


class TestLocalLauncher(LauncherContract):
    @pytest.fixture
    def new_launcher(self) -> Iterator[Callable[[], LocalLauncher]]:
        made: list[LocalLauncher] = []

        def make() -> LocalLauncher:
            made.append(LocalLauncher())
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()
