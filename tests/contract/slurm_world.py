"""A fake cluster, launchers on a clock that only moves when told, and attempts for them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FakeClock
from contract.launchers import make_spec
from slurm_fake import FakeSlurm

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.records import AttemptSpec

NO_ANSWER = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
CHATTER = "Welcome to the cluster!\nsbatch: lua: Submitted job 99\n\n"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "cluster")


@pytest.fixture
def new(fake: FakeSlurm, clock: FakeClock) -> Iterator[Callable[..., SlurmLauncher]]:
    made: list[SlurmLauncher] = []

    def make(**changes) -> SlurmLauncher:
        settings = SlurmSettings("lab", programs=str(fake.bin), **changes)
        made.append(SlurmLauncher(settings, poll_seconds=0, clock=clock, steady=clock.steady))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., AttemptSpec]:
    def build(*argv: str, name: str = "e", **changes) -> AttemptSpec:
        return make_spec(tmp_path / "runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", **changes)

    return build


def jobs(fake: FakeSlurm) -> int:
    return fake.sql("select count(*) from arrays")[0][0]
