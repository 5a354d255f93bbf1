"""The launcher contract over containers of a real Docker engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launcher_contract import LauncherContract
from docker_lab import Lab, processes_inside
from rig_fixtures import DockerRig

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.model.records import AttemptSpec


class TestDockerLauncher(LauncherContract):
    def job_process_runs(self, spec: AttemptSpec, pid: int) -> bool:
        return pid in processes_inside(spec.run_dir)

    @pytest.fixture
    def new_launcher(self, docker_engine: DockerRig, tmp_path: Path) -> Iterator[Callable[[], DockerLauncher]]:
        with Lab(docker_engine.url, tmp_path).open() as lab:
            yield lab.launcher
