"""The launcher contract with jobs inside tmux on an SSH host."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launcher_contract import LauncherContract
from contract.tmux_server import sockets
from ssh_rig import Sshd, running

from prefect_campaign.launch.ssh.launcher import SshLauncher

__all__ = ["sockets"]


class TestSshLauncherInTmux(LauncherContract):
    @pytest.fixture
    def new_launcher(
        self, sockets: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Callable[[], SshLauncher]]:
        made: list[SshLauncher] = []
        sshd = Sshd(tmp_path_factory.mktemp("host"))
        sshd.environment["TMUX_TMPDIR"] = str(sockets)

        def make() -> SshLauncher:
            made.append(SshLauncher(sshd.host(shared=(str(tmp_path),), tmux=True), poll_seconds=0.02))
            return made[-1]

        with running(sshd):
            yield make
            for launcher in made:
                launcher.close()
