"""What other tests rely on: the rig's parts do what a real one does."""

import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rig.cgroups import memory_v1
from rig_fixtures import DockerRig, SlurmRig
from sqlalchemy import NullPool, create_engine

PATIENCE = 60


def submit(slurm: SlurmRig, script: str, *options: str) -> str:
    done = slurm.run("sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", *options, f"--wrap={script}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def accounted(slurm: SlurmRig, job: str, *wanted: str) -> list[str]:
    """State and exit code in the accounting, once the state is one of those wanted."""
    deadline = time.monotonic() + PATIENCE
    while True:
        line = slurm.run("sacct", "-XnPj", job, "--format=State,ExitCode").stdout.strip()
        if line.startswith(wanted):
            return line.split("|")
        assert time.monotonic() < deadline, line
        time.sleep(0.1)


def test_slurm_shows_its_nodes_and_its_gpus(slurm: SlurmRig) -> None:
    shown = slurm.run("sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %G")
    assert shown.stdout.split() == ["n1", "gpu:a100:4", "n2", "gpu:v100:4"]
    assert slurm.run("squeue").returncode == 0


def test_a_job_gets_its_gpus_and_is_accounted(slurm: SlurmRig, tmp_path: Path) -> None:
    job = submit(slurm, f"echo $CUDA_VISIBLE_DEVICES >{tmp_path}/seen", "--gres=gpu:2")
    assert accounted(slurm, job, "COMPLETED") == ["COMPLETED", "0:0"]
    assert len((tmp_path / "seen").read_text().strip().split(",")) == 2


def test_memory_is_limited(slurm: SlurmRig) -> None:
    job = submit(slurm, "/usr/bin/python3 -c 'bytearray(8) * 2**26'", "--mem=40M")
    expected = ["OUT_OF_MEMORY", "0:125"] if memory_v1() else ["FAILED", "0:9"]
    assert accounted(slurm, job, expected[0]) == expected


def test_the_account_few_may_not_submit_many(slurm: SlurmRig) -> None:
    done = slurm.run("sbatch", "--chdir=/tmp", "--account=few", "--array=1-5", "--hold", "--wrap=true")
    assert "AssocMaxSubmitJobLimit" in done.stderr, done.stdout


def test_configurations_that_lead_nowhere(slurm: SlurmRig, tmp_path: Path) -> None:
    accounting = slurm.dead_accounting(tmp_path)
    assert slurm.run("sacct", conf=accounting).returncode == 1
    assert slurm.run("squeue", conf=accounting).returncode == 0
    assert slurm.run("squeue", conf=slurm.dead_controller(tmp_path)).returncode == 1
    assert slurm.run("sacct", conf=slurm.dead_controller(tmp_path)).returncode == 0


def test_a_dead_node_gives_its_job_back(slurm_alone: SlurmRig) -> None:
    job = submit(slurm_alone, "sleep 60", "--partition=one", "--no-requeue")
    accounted(slurm_alone, job, "RUNNING")
    with slurm_alone.settings(SlurmdTimeout=2):
        slurm_alone.kill_node("n1")
        accounted(slurm_alone, job, "NODE_FAIL")
        slurm_alone.start("n1")


@pytest.mark.parametrize("name", ["slurmdbd", "mariadb", "munged", "n2"])
def test_a_job_outlives_each_daemon(slurm_alone: SlurmRig, tmp_path: Path, name: str) -> None:
    check_outliving(slurm_alone, tmp_path, slurm_alone.without(name))


def test_a_job_outlives_a_stopped_slurmctld(slurm_alone: SlurmRig, tmp_path: Path) -> None:
    check_outliving(slurm_alone, tmp_path, slurm_alone.without("slurmctld", stop=True))


def check_outliving(slurm_alone: SlurmRig, tmp_path: Path, without: AbstractContextManager[None]) -> None:
    job = submit(slurm_alone, f"until [ -e {tmp_path}/go ]; do sleep 0.1; done", "--nodelist=n2")
    accounted(slurm_alone, job, "RUNNING")
    with without:
        pass
    (tmp_path / "go").touch()
    assert accounted(slurm_alone, job, "COMPLETED") == ["COMPLETED", "0:0"]


def test_docker_limits_memory(docker_engine: DockerRig) -> None:
    name = f"rig-test-{os.getpid()}"
    limits = ("--network=none", "--memory=16m", "--memory-swap=16m")
    done = docker_engine.run("run", f"--name={name}", *limits, docker_engine.busybox, "tail", "/dev/zero")
    seen = docker_engine.run("inspect", "--format={{.State.OOMKilled}} {{.State.ExitCode}}", name).stdout.split()
    docker_engine.run("rm", "--force", name)
    assert (done.returncode, seen) == (137, ["true", "137"])


def test_the_image_with_python_has_its_standard_library(docker_engine: DockerRig) -> None:
    program = (
        "import ctypes, hashlib, json, sqlite3, ssl, multiprocessing; print(sqlite3.connect(':memory:') and 'ran')"
    )
    done = docker_engine.run("run", "--rm", docker_engine.python, "env", "python", "-c", program)
    assert done.stdout == "ran\n", done.stderr


@pytest.mark.parametrize(("live", "state"), [(False, "exited"), (True, "running")])
def test_a_restart_of_the_engine(docker_engine_alone: DockerRig, live: bool, state: str) -> None:
    name = f"rig-test-{os.getpid()}"
    with docker_engine_alone.settings(**{"live-restore": live}):
        options = ("--detach", f"--name={name}", "--stop-timeout=1")
        docker_engine_alone.run("run", *options, docker_engine_alone.busybox, "sleep", "600")
        docker_engine_alone.kill()
        docker_engine_alone.start()
        seen = docker_engine_alone.run("inspect", "--format={{.State.Status}}", name).stdout.strip()
        docker_engine_alone.run("rm", "--force", name)
    assert seen == state


def test_each_test_has_a_database_of_its_own(postgres_url: str) -> None:
    engine = create_engine(postgres_url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("create table t (n int)")
        assert connection.exec_driver_sql("select count(*) from t").scalar() == 0


def test_redis_answers() -> None:
    url = os.environ.get("CAMPAIGN_TEST_REDIS_URL")
    if not url:
        pytest.skip("needs the rig's redis: make rig PARTS=redis")
    argv = ["redis-cli", "--no-auth-warning", "-u", url, "ping"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "PONG\n"
