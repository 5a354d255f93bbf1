"""The fixtures `driver` and `new_driver`; see the package's docstring."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import lacks, needed

from driver import Driver
from prefect_campaign.launch.gpus import inventory

SOURCE = Path(__file__).with_name("nvml.c")


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the library under the name by which the binding loads it."""
    gcc = needed("gcc")  # the fake driver is compiled
    folder = tmp_path_factory.mktemp("driver")
    target = folder / "libnvidia-ml.so.1"
    argv = [gcc, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "No such file or directory" in done.stderr and ".h" in done.stderr:
        lacks(["the headers of C"], "libc6-dev")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def new_driver(driver_library: Path, tmp_path: Path) -> Callable[[str], Driver]:
    """A driver by a name of its own, for one of several hosts; nothing is set in this process."""

    def make(name: str) -> Driver:
        return Driver(driver_library, tmp_path / f"nvml-{name}.txt")

    return make


@pytest.fixture
def driver(new_driver: Callable[[str], Driver], monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The driver of this machine while the test runs: without GPUs until it is told."""
    made = new_driver("local")
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _forget()
    yield made
    made.heal()  # a worker that hangs comes to its end
    _forget()


def _forget() -> None:
    """The reader of this process may know another driver."""
    inventory.shared_reader().close()
    inventory.shared_reader.cache_clear()
