"""A second rig beside the first, from nothing to nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rig.__main__ import PARTS
from rig.home import Home

CHECKOUT = Path(__file__).parents[2]
NAPS = ("98765431", "98765432", "98765433")
"""Seconds that sleeps of this test want to last: by these they are found."""


class Rig:
    """`python -m rig` with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.parts = {part.name: part(self.home) for part in PARTS}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RIG_HOME": str(self.home.path)}
        environment["PYTHONPATH"] = f"{CHECKOUT / 'tests'}:{CHECKOUT / 'src'}"
        argv = [sys.executable, "-m", "rig", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)

    def pids(self) -> dict[str, int]:
        """All daemons that are on record."""
        records = (self.home.path / "pids").glob("*.json")
        return {path.stem: json.loads(path.read_text())["pid"] for path in records}

    def leftovers(self) -> list[str]:
        """Processes with a word of this rig in their arguments, environment or folder."""
        words = [str(self.home.path).encode(), *(nap.encode() for nap in NAPS)]
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            said = b"".join(_read(f"/proc/{pid}/{name}") for name in ("cmdline", "environ"))
            if int(pid) != os.getpid() and any(word in said for word in words):
                found.append(f"{pid} {_read(f'/proc/{pid}/cmdline')!r}")
        return found


@pytest.fixture
def rig() -> Iterator[Rig]:
    # Not below pytest's folder, which is closed to the services' own users.
    with tempfile.TemporaryDirectory(prefix="rig-", dir="/var/tmp") as folder:
        made = Rig(Path(folder))
        if os.geteuid() != 0 or any(part.missing() for part in made.parts.values()):
            pytest.skip("needs root and the rig's packages: make rig")
        yield made
        done = made.run("down")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Somebody else's processes, with the names of the rig's."""
    started = []
    for name in ("redis-server", "slurmctld", "slurmstepd", "dockerd", "containerd-shim"):
        program = shutil.copy(shutil.which("sleep") or "", tmp_path / name)
        started.append(subprocess.Popen([program, "600"]))
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slurm
@pytest.mark.docker
@pytest.mark.postgres
def test_from_nothing_to_nothing(rig: Rig, strangers: list[subprocess.Popen[bytes]]) -> None:
    done = rig.run("up")
    assert done.returncode == 0, done.stderr
    names = [line.partition("=")[0] for line in rig.home.env_file.read_text().splitlines()]
    assert names == [
        "RIG_HOME",
        "SLURM_CONF",
        "DOCKER_HOST",
        "CAMPAIGN_TEST_POSTGRES_URL",
        "CAMPAIGN_TEST_REDIS_URL",
    ]

    first = rig.pids()
    assert rig.run("up").returncode == 0
    assert rig.pids() == first, "what is up is left alone"

    for pid in first.values():
        os.kill(pid, signal.SIGKILL)
    assert rig.run("status").returncode == 1
    done = rig.run("up")
    assert done.returncode == 0, done.stderr
    assert rig.run("status").returncode == 0

    slurm, docker = rig.parts["slurm"], rig.parts["docker"]
    script = f"setsid sleep {NAPS[0]} & sleep {NAPS[1]}"
    assert slurm.ask("sbatch", "--chdir=/tmp", "--output=/dev/null", f"--wrap={script}").returncode == 0
    ran = docker.ask("run", "--detach", "--init", "campaign-test/busybox", "sleep", NAPS[2])
    assert ran.returncode == 0, ran.stderr
    until(lambda: all(any(nap in line for line in rig.leftovers()) for nap in NAPS))
    # The worst that can happen first: what they have started is nobody's now.
    for name in ("dockerd", "containerd", "slurmctld", "n1"):
        os.kill(rig.pids()[name], signal.SIGKILL)

    done = rig.run("down")
    assert done.returncode == 0, done.stderr
    assert rig.leftovers() == []
    assert str(rig.home.path) not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys").glob(f"class/net/{rig.home.short_name}"))
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{rig.home.short_name}*"))
    assert all(process.poll() is None for process in strangers)
    assert rig.home.env_file.read_text() == f"RIG_HOME={rig.home.path}\n"


@pytest.mark.slurm
def test_the_next_start_has_no_old_jobs_and_goes_on_counting(rig: Rig) -> None:
    slurm = rig.parts["slurm"]
    assert rig.run("up", "slurm").returncode == 0
    job = int(slurm.ask("sbatch", "--chdir=/tmp", "--parsable", "--hold", "--wrap=true").stdout)
    assert rig.run("down", "slurm").returncode == 0
    assert rig.run("up", "slurm").returncode == 0
    assert slurm.ask("squeue", "--noheader").stdout == ""
    assert int(slurm.ask("sbatch", "--chdir=/tmp", "--parsable", "--hold", "--wrap=true").stdout) > job


def test_one_part_that_cannot_run_does_not_keep_the_others_from_it(rig: Rig) -> None:
    rig.home.make()
    (rig.home.path / "docker").touch()  # where a folder should be
    done = rig.run("up", "docker", "redis")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("docker: cannot run here: ")
    assert done.stdout.startswith("redis: up")
    (rig.home.path / "docker").unlink()


def test_a_part_that_is_none(rig: Rig) -> None:
    done = rig.run("up", "kubernetes")
    assert done.returncode == 2
    assert "no such part: kubernetes" in done.stderr


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
