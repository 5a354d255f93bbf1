"""The rig as fixtures: what is not up is skipped with the reason, and faults wait until nobody else looks.

`slurm`, `docker_engine` and `postgres_url` may be used by many tests at once. `slurm_alone` and `docker_engine_alone`
are the same for tests that kill and restart: they wait for the others, and everything is up again afterwards.
"""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from ledgers import new_database
from rig.daemon import ask
from rig.docker import Docker
from rig.home import Home
from rig.images import BUSYBOX, PYTHON
from rig.part import Part
from rig.postgres import Postgres
from rig.redis import Redis
from rig.slurm import Slurm

__all__ = [
    "DockerRig",
    "SlurmRig",
    "docker_engine",
    "docker_engine_alone",
    "postgres_url",
    "slurm",
    "slurm_alone",
    "take_addresses",
]

Some = TypeVar("Some", bound=Part)


class SlurmRig:
    """The cluster.

    Attributes:
        conf: SLURM_CONF of it.
    """

    def __init__(self, part: Slurm) -> None:
        self.part = part
        self.conf = part.home.path / "slurm" / "slurm.conf"

    def run(self, *argv: str, conf: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A Slurm command, here or with another SLURM_CONF."""
        return ask(*argv, SLURM_CONF=str(conf or self.conf))

    def dead_controller(self, folder: Path) -> Path:
        """A SLURM_CONF whose clients find no slurmctld."""
        return self._changed(folder / "dead_controller.conf", "SlurmctldPort")

    def dead_accounting(self, folder: Path) -> Path:
        """A SLURM_CONF whose clients find no slurmdbd."""
        return self._changed(folder / "dead_accounting.conf", "AccountingStoragePort")

    def kill(self, name: str) -> None:
        """SIGKILL one daemon: slurmctld, slurmdbd, mariadb, munged, n1 or n2; the jobs of a node live on.

        A slurmctld forgets what it has not written yet: jobs of the last five seconds, whose ids it then gives again.
        """
        self.part.daemon(name).kill()

    def stop(self, name: str) -> None:
        """Stop one daemon properly, so that it forgets nothing."""
        self.part.daemon(name).stop()

    def kill_node(self, name: str) -> None:
        """As if the power of n1 or n2 were gone: its slurmd and all jobs on it."""
        self.part.kill_node(name)

    def start(self, name: str) -> None:
        """Start one daemon again, and wait until it answers."""
        self.part.daemon(name).up()

    @contextmanager
    def without(self, name: str, *, stop: bool = False) -> Iterator[None]:
        """One daemon is killed (or stopped), and started at the end of the block."""
        (self.stop if stop else self.kill)(name)
        try:
            yield
        finally:
            self.start(name)

    @contextmanager
    def settings(self, **changes: object) -> Iterator[None]:
        """Other settings in slurm.conf, until the end of the block: ``settings(MinJobAge=2)``."""
        self._configure(changes)
        try:
            yield
        finally:
            self._configure({})

    def _configure(self, changes: dict[str, object]) -> None:
        self.part.write_settings(**changes)
        done = self.run("scontrol", "reconfigure")
        assert done.returncode == 0, done.stderr

    def _changed(self, path: Path, name: str) -> Path:
        port = self.part.home.port("nobody")  # of the rig's, and no daemon listens on it
        lines = self.conf.read_text().splitlines()
        path.write_text("\n".join(f"{name}={port}" if line.startswith(f"{name}=") else line for line in lines) + "\n")
        return path


class DockerRig:
    """The engine.

    Attributes:
        url: DOCKER_HOST of it.
        busybox: an image with a shell and its usual programs.
        python: the same and Python with its standard library.
    """

    busybox = BUSYBOX
    python = PYTHON

    def __init__(self, part: Docker) -> None:
        self.part = part
        self.url = part.addresses()["DOCKER_HOST"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The docker command."""
        return self.part.ask(*words)

    def kill(self) -> None:
        """SIGKILL the engine; its containers live on."""
        self.part.daemon("dockerd").kill()

    def stop(self) -> None:
        """Stop the engine; it stops its containers, unless `live_restore`."""
        self.part.daemon("dockerd").stop()

    def start(self) -> None:
        """Start the engine again, and wait until it answers."""
        self.part.daemon("dockerd").up()

    @contextmanager
    def settings(self, **changes: object) -> Iterator[None]:
        """The engine restarted with other settings, for a block: ``settings(**{"live-restore": True})``."""
        try:
            self._restart(changes)
            yield
        finally:
            self._restart({})

    def _restart(self, changes: dict[str, object]) -> None:
        self.stop()
        self.part.write_settings(**changes)
        self.start()


@pytest.fixture
def slurm() -> Iterator[SlurmRig]:
    """The rig's Slurm, shared with other tests: name your jobs so that you know them."""
    with _locked(Slurm(Home.locate()), fcntl.LOCK_SH) as part:
        yield SlurmRig(part)


@pytest.fixture
def slurm_alone() -> Iterator[SlurmRig]:
    """The same, with nobody else there: for faults."""
    _needs_root()
    with _locked(Slurm(Home.locate()), fcntl.LOCK_EX) as part:
        yield SlurmRig(part)
        part.up()


@pytest.fixture
def docker_engine() -> Iterator[DockerRig]:
    """The rig's Docker engine, shared with other tests: label your containers so that you know them."""
    with _locked(Docker(Home.locate()), fcntl.LOCK_SH) as part:
        yield DockerRig(part)


@pytest.fixture
def docker_engine_alone() -> Iterator[DockerRig]:
    """The same, with nobody else there: for faults."""
    _needs_root()
    with _locked(Docker(Home.locate()), fcntl.LOCK_EX) as part:
        yield DockerRig(part)
        part.up()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty database of the test's own in the rig's PostgreSQL, as SQLAlchemy's URL."""
    with new_database(empty=True) as url:
        yield url


def take_addresses() -> None:
    """Let tests find the servers of a rig that is up; what the environment has already goes first."""
    home = Home.locate()
    if not os.access(home.env_file, os.R_OK):
        return
    known = dict(line.split("=", 1) for line in home.env_file.read_text().splitlines())
    parts = {"CAMPAIGN_TEST_POSTGRES_URL": Postgres(home), "CAMPAIGN_TEST_REDIS_URL": Redis(home)}
    for name, part in parts.items():
        if name in known and part.is_up():
            os.environ.setdefault(name, known[name])


def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to kill the rig's daemons")


@contextmanager
def _locked(part: Some, how: int) -> Iterator[Some]:
    why = f"needs the rig's {part.name}: make rig PARTS={part.name}"
    if part.missing() or not part.tests_lock.exists():
        pytest.skip(why)
    with part.tests_lock.open() as file:
        fcntl.flock(file, how)
        # Only now: whoever held it may have had a daemon down.
        if not part.is_up():
            pytest.skip(why)
        yield part
