"""The worker that asks the driver: a driver that fails, hangs, crashes or is not there; and what the launcher tells."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from driver import CRASH, DRIVER_NOT_LOADED, MISMATCH, NO_PERMISSION, UNKNOWN, Driver, gpus, uuid_of

from prefect_campaign.launch.gpus import inventory
from prefect_campaign.launch.gpus.inventory import GpuReader
from prefect_campaign.launch.gpus.nvml import DRIVER_DEVICE, Reading
from prefect_campaign.launch.local import LocalLauncher


@pytest.fixture
def reader(driver: Driver) -> Iterator[GpuReader]:
    made = GpuReader(limit=30)
    yield made
    driver.heal()
    made.close()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (DRIVER_NOT_LOADED, "not loaded.*modprobe"),
        (MISMATCH, "differ in version.*reboot"),
        (NO_PERMISSION, "no permission.*/dev/nvidiactl"),
        (UNKNOWN, "'Unknown Error'.*nvidia-smi"),
        (4711, "an error that this library does not know"),
        (CRASH, "crashed by SIGSEGV"),
    ],
)
def test_a_driver_that_does_not_work_is_told_with_what_to_do_and_looked_at_again(driver, reader, code, says):
    driver.set(gpus(2))
    driver.fail(code)
    for _ in range(2):
        reading = reader.read()
        assert reading.gpus == ()
        assert re.search(says, reading.problem)
    driver.heal()
    assert [gpu.problem for gpu in reader.read().gpus] == ["", ""]
    driver.fail(code)
    assert re.search(says, reader.read().problem)


def test_no_driver_at_all_is_no_problem_and_not_looked_for_again_at_once(driver_library, tmp_path, monkeypatch, clock):
    if os.path.exists(DRIVER_DEVICE):
        return  # this machine has one
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reader = GpuReader(clock=clock)
    assert reader.read() == Reading()
    (tmp_path / "libnvidia-ml.so.1").symlink_to(driver_library / "libnvidia-ml.so.1")
    Driver(driver_library, tmp_path / "state").set(gpus(1))
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "state"))
    assert reader.read() == Reading()
    clock.advance(inventory.ABSENT_SECONDS)
    assert len(reader.read().gpus) == 1
    reader.close()


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_library_that_cannot_be_loaded_is_a_problem(tmp_path, monkeypatch, content):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(content)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reader = GpuReader()
    assert "cannot be loaded" in reader.read().problem
    reader.close()


def test_a_driver_without_gpus_is_no_problem(driver, reader):
    assert reader.read() == Reading(driver="550.54.15", cuda="12.4")


@pytest.mark.parametrize("whole", [True, False])
def test_a_driver_that_hangs_holds_up_one_caller_and_no_other_and_is_asked_by_one_worker(driver, whole):
    driver.set(gpus(2))
    reader = GpuReader(limit=0.2)
    while reader.read().problem:  # a slow machine: until the worker has started
        pass
    driver.hang(None if whole else uuid_of(1))
    assert "has not answered" in reader.read().problem
    worker = reader._worker.process
    for _ in range(20):
        assert "has not answered" in reader.read().problem
        assert reader._worker.process is worker
    driver.heal()
    _until(lambda: not reader.read().problem)
    assert reader._worker.process is worker
    reader.close()
    assert worker.poll() is not None


def test_a_worker_that_is_silent_for_long_is_killed_and_a_new_one_asked(driver, clock):
    driver.set(gpus(1))
    reader = GpuReader(limit=30, clock=clock)
    reader.read()
    worker = reader._worker.process
    os.kill(worker.pid, signal.SIGSTOP)
    reader._limit = 0.0
    assert "has not answered" in reader.read().problem
    clock.advance(inventory.GIVE_UP_SECONDS - 1)
    assert "has not answered for 59 s" in reader.read().problem
    assert worker.poll() is None
    clock.advance(1)
    reader._limit = 30
    assert reader.read().gpus[0].problem == ""
    assert worker.returncode == -signal.SIGKILL
    reader.close()


def test_a_worker_that_ended_meanwhile_is_followed_by_another(driver, reader):
    driver.set(gpus(1))
    reader.read()
    worker = reader._worker.process
    worker.kill()
    worker.wait()
    assert len(reader.read().gpus) == 1


@pytest.mark.parametrize("hangs", [False, True])
def test_the_worker_ends_with_its_owner_also_while_the_driver_hangs(driver, hangs):
    driver.set(gpus(1))
    if hangs:
        driver.hang()
    code = (
        "import os, signal\nfrom prefect_campaign.launch.gpus.inventory import GpuReader\n"
        f"reader = GpuReader(limit={0.1 if hangs else 30})\nreader.read()\n"
        "print(reader._worker.process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    _until(lambda: not _runs(int(done.stdout)))


def test_nobody_can_slip_a_module_of_the_working_folder_into_the_worker(driver, reader, tmp_path, monkeypatch):
    (tmp_path / "pynvml.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    driver.set(gpus(1))
    assert len(reader.read().gpus) == 1


async def test_the_launcher_looks_at_this_machine(driver, reader, clock, monkeypatch):
    driver.set(gpus(3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    launcher = LocalLauncher(3, reserve=["2"], keep_free=1, factor=1.5, gpus=reader, clock=clock)
    (view,) = await launcher.look()
    assert (view.slots, view.keep_free, view.factor, view.problem) == (3, 1, 1.5, "")
    assert (view.driver, view.cuda, view.seen_at) == ("550.54.15", "12.4", clock())
    assert [bool(gpu.problem) for gpu in view.gpus] == [False, True, False]
    assert view.reserve == {"2", uuid_of(2)}


async def test_the_launcher_says_what_keeps_all_gpus_from_being_read(driver, reader):
    driver.fail(MISMATCH)
    (view,) = await LocalLauncher(gpus=reader).look()
    assert "differ in version" in view.gpu_problem
    assert view.problem == ""
    assert view.gpus == ()


@pytest.mark.parametrize("reserve", [["GPU-ffffffff"], ["7"], ["other:0"], ["GPU-"], ["A100"]])
async def test_a_reserve_entry_that_means_nothing_keeps_every_gpu_and_is_named(driver, reader, reserve):
    driver.set(gpus(2))
    (view,) = await LocalLauncher(reserve=["0", *reserve], gpus=reader).look()
    assert [repr(reserve[0]) in gpu.problem and "reserve" in gpu.problem for gpu in view.gpus] == [True, True]
    assert view.problem == ""


async def test_a_reserved_gpu_that_vanished_is_still_known(driver, reader):
    driver.set(gpus(2))
    launcher = LocalLauncher(reserve=[uuid_of(1)[:12]], gpus=reader)
    await launcher.look()
    driver.vanish(uuid_of(1))
    (view,) = await launcher.look()
    assert [bool(gpu.problem) for gpu in view.gpus] == [False, True]
    assert uuid_of(1) in view.reserve


async def test_keeping_more_free_than_there_is_is_said(driver, reader):
    driver.set(gpus(2))
    (view,) = await LocalLauncher(keep_free=3, gpus=reader).look()
    assert all("keep_free: 3 is more than the 2 GPUs" in gpu.problem for gpu in view.gpus)


async def test_every_gpu_may_be_kept_free(driver, reader):
    driver.set(gpus(2))
    (view,) = await LocalLauncher(keep_free=2, gpus=reader).look()
    assert [gpu.problem for gpu in view.gpus] == ["", ""]


def _until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
