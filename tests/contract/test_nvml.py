"""The GPUs of this machine: what is read, and every way in which a driver fails to tell."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from driver import (
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    UNKNOWN,
    Driver,
    FakeGpu,
    FakeProcess,
    gpus,
    uuid_of,
)

from prefect_campaign.launch.gpus.inventory import GpuReader


@pytest.fixture
def reader(driver: Driver) -> Iterator[GpuReader]:
    made = GpuReader(limit=30)
    yield made
    driver.heal()
    made.close()


@pytest.fixture
def train(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a process that carries a run dir, as an attempt does."""
    script = tmp_path / "train.py"
    script.write_text("import sys\nprint('here', flush=True)\nsys.stdin.read()\n")
    started = []

    def start(*argv: str, **env: str) -> subprocess.Popen:
        argv = argv or (sys.executable, str(script), "--password", "hunter2")
        process = subprocess.Popen(
            argv, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
        )
        started.append(process)
        assert process.stdout.readline() == b"here\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_all_that_is_asked_for_is_told(driver, reader):
    driver.set([FakeGpu("GPU-a", name="NVIDIA H100", total_mb=81559, used_mb=700, utilisation=3, temperature=37)])
    (gpu,) = reader.read().gpus
    assert (gpu.uuid, gpu.index, gpu.name, gpu.total_mb, gpu.used_mb) == ("GPU-a", 0, "NVIDIA H100", 81559, 700)
    assert (gpu.utilisation, gpu.temperature, gpu.ecc_errors, gpu.mig, gpu.problem) == (3, 37, 0, False, "")
    assert gpu.free_mb == 80859


def test_a_process_is_told_with_owner_command_and_run_dir_and_without_its_arguments(driver, reader, train):
    job = train(CAMPAIGN_RUN_DIR="/runs/e ü/a1")
    driver.set(gpus(2))
    driver.run(driver.uuids[1], job.pid, 4000)
    first, second = reader.read().gpus
    assert first.processes == ()
    (process,) = second.processes
    assert (process.pid, process.used_mb, process.run_dir) == (job.pid, 4000, "/runs/e ü/a1")
    assert process.command.endswith(" train.py")
    assert "hunter2" not in process.command
    assert not process.graphics
    assert second.used_mb == 4000


def test_a_name_that_a_process_gave_itself_cannot_reach_the_terminal(driver, reader, train):
    job = train("bash", "-c", "exec -a $'evil\\033[2J\\n\\xff' sh -c 'echo here; read x'")
    driver.set(gpus(1))
    driver.run(driver.uuids[0], job.pid, 1)
    (process,) = reader.read().gpus[0].processes
    assert process.command.startswith("evil")
    assert process.command.isprintable()
    json.dumps(process.command).encode("ascii")


def test_a_name_of_a_gpu_cannot_reach_the_terminal(driver, reader):
    driver.set([FakeGpu(uuid_of(0), name="evil\x1b[2J card")])
    assert reader.read().gpus[0].name == "evil [2J card"


def test_a_pid_that_is_not_here_and_memory_that_is_not_told_stay_unknown(driver, reader):
    driver.set(gpus(1))
    driver.run(driver.uuids[0], 2**22 + 5, None)
    (process,) = reader.read().gpus[0].processes
    assert (process.used_mb, process.user, process.command, process.run_dir) == (None, "?", "?", None)


def test_a_process_that_draws_is_told_apart_and_one_that_does_both_is_told_once(driver, reader):
    driver.set(gpus(1))
    for pid, kind in ((11, "G"), (12, "G"), (12, "C"), (13, "M")):
        driver.run(driver.uuids[0], pid, 100, kind)
    found = {p.pid: (p.graphics, p.used_mb) for p in reader.read().gpus[0].processes}
    assert found == {11: (True, 100), 12: (False, 100), 13: (False, 100)}


def test_very_many_processes(driver, reader):
    driver.set([FakeGpu(uuid_of(0), processes=tuple(FakeProcess(5_000_000 + n, 1) for n in range(200)))])
    assert len(reader.read().gpus[0].processes) == 200


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"faults": {"*": GPU_IS_LOST}}, "lost"),
        ({"faults": {"nvmlDeviceGetHandleByIndex": NO_PERMISSION}}, "no permission.*/dev/nvidia1"),
        ({"faults": {"nvmlDeviceGetUUID": UNKNOWN}}, "cannot be read: Unknown Error"),
        ({"faults": {"nvmlDeviceGetName": GPU_IS_LOST}}, "lost"),
        ({"faults": {"nvmlDeviceGetMemoryInfo": UNKNOWN}}, "memory cannot be read"),
        ({"faults": {"nvmlDeviceGetMemoryInfo": NOT_SUPPORTED}}, "memory cannot be read"),
        ({"faults": {"nvmlDeviceGetMemoryInfo": NO_PERMISSION}}, "no permission to read memory"),
        ({"faults": {"nvmlDeviceGetMemoryInfo": 4711}}, "an error that this library does not know"),
        ({"faults": {"nvmlDeviceGetComputeRunningProcesses": NO_PERMISSION}}, "no permission to read process list"),
        ({"faults": {"nvmlDeviceGetComputeRunningProcesses": NOT_SUPPORTED}}, "process list cannot be read"),
        ({"faults": {"nvmlDeviceGetUtilizationRates": UNKNOWN}}, "utilisation cannot be read"),
        ({"faults": {"nvmlDeviceGetTemperature": RESET_REQUIRED}}, "reset: nvidia-smi -i 1 --gpu-reset"),
        ({"faults": {"nvmlDeviceGetTotalEccErrors": UNKNOWN}}, "memory errors cannot be read"),
        ({"ecc": 2}, "2 uncorrected memory errors"),
        ({"mig": 1}, "MIG is on"),
        ({"mig": 1, "faults": {"nvmlDeviceGetMemoryInfo": NOT_SUPPORTED}}, "MIG is on"),
        ({"mode": 2}, "Prohibited"),
        ({"total_mb": 24576, "used_mb": 30000}, "nonsense of its memory"),
        ({"processes": (FakeProcess(5_000_000, 2**43),)}, "nonsense of its memory"),
    ],
)
def test_a_broken_gpu_is_told_in_one_line_and_the_others_are_intact(driver, reader, changes, says):
    driver.set(gpus(3))
    sound = reader.read().gpus
    driver.change(uuid_of(1), **changes)
    broken = reader.read()
    assert broken.problem == ""
    assert (broken.gpus[0], broken.gpus[2]) == (sound[0], sound[2])
    bad = broken.gpus[1]
    assert re.search(says, bad.problem)
    assert "\n" not in bad.problem
    assert (bad.uuid, bad.index) == (uuid_of(1), 1)
    driver.set(gpus(3))
    assert reader.read().gpus == sound


@pytest.mark.parametrize("what", ["utilisation", "temperature", "ecc", "mig"])
def test_what_a_model_does_not_support_is_no_problem(driver, reader, what):
    driver.set(gpus(1, **{what: None}))
    (gpu,) = reader.read().gpus
    assert gpu.problem == ""
    name = {"ecc": "ecc_errors"}.get(what, what)
    assert getattr(gpu, name) in (None, False)


def test_a_gpu_that_never_told_its_uuid_is_still_counted(driver, reader):
    driver.set(gpus(2))
    driver.lose(uuid_of(0))
    lost, sound = reader.read().gpus
    assert lost.problem
    assert lost.uuid == "unreadable-0"
    assert (sound.uuid, sound.problem) == (uuid_of(1), "")


def test_a_gpu_that_vanishes_between_two_looks_is_its_own_problem_alone(driver, reader):
    driver.set(gpus(3))
    reader.read()
    driver.vanish(uuid_of(0))
    *left, gone = reader.read().gpus
    assert [(g.uuid, g.index, g.problem) for g in left] == [(uuid_of(1), 0, ""), (uuid_of(2), 1, "")]
    assert gone.uuid == uuid_of(0)
    assert "vanished" in gone.problem
    # The others have moved up: one that is lost now is not taken for the one that vanished.
    driver.lose(uuid_of(1))
    assert {g.uuid: bool(g.problem) for g in reader.read().gpus} == {
        uuid_of(0): True,
        uuid_of(1): True,
        uuid_of(2): False,
    }
    driver.set(gpus(3))
    assert [(g.uuid, g.problem) for g in reader.read().gpus] == [(uuid_of(n), "") for n in range(3)]


def test_a_gpu_that_vanishes_within_one_look_is_its_own_problem_alone(driver, reader):
    driver.set(gpus(2))
    driver.change(uuid_of(0), faults={"nvmlDeviceGetUtilizationRates": 28})
    first, second = reader.read().gpus
    assert "no longer there" in first.problem
    assert second.problem == ""
