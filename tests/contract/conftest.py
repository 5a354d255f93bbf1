"""Assertions in the shared contract suites explain themselves, and jobs of failed tests end with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.leftovers import no_leftovers
from docker_lab import BUSYBOX, Lab
from fake_docker import FakeEngine

PARTS = ("launchers", "running", "keeping", "cancelling", "gpus", "docker_faults", "queue_contract")
pytest.register_assert_rewrite(*(f"contract.{part}" for part in PARTS))


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path):
    with no_leftovers(tmp_path):
        yield


@pytest.fixture
def fake_docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path_factory.mktemp("d"))
    engine.add_image(BUSYBOX)
    engine.start()
    yield engine
    engine.stop()
    engine.end_all()


@pytest.fixture
def lab(fake_docker: FakeEngine, tmp_path: Path) -> Iterator[Lab]:
    with Lab(fake_docker.url, tmp_path).open() as opened:
        yield opened
