"""`campaign gpus` as a process."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import pytest
from driver import MISMATCH, gpus, uuid_of

from prefect_campaign.launch.gpus.inventory import GpuReader
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.ledger import gpu_numbers
from prefect_campaign.ledger.store import Ledger


def row(picture: str, index: int) -> str:
    return next(line for line in picture.splitlines() if line.startswith(f"{index}  "))


def campaign(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect_campaign.cli.main", "gpus", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_verb_shows_the_gpus_of_this_machine(home, driver):
    driver.set(gpus(2, name="NVIDIA T4"))
    driver.run(uuid_of(1), os.getpid(), 4096)
    shown = campaign()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "T4" in row(shown.stdout, 0)
    assert "4 GB" in row(shown.stdout, 1)
    (host,) = json.loads(campaign("--json").stdout)["hosts"]
    assert host["host"] == socket.gethostname()
    assert [gpu["processes"][0]["pid"] for gpu in host["gpus"] if gpu["processes"]] == [os.getpid()]


def test_a_gpu_that_vanished_keeps_its_number_until_it_is_forgotten(home, driver):
    driver.set(gpus(3))
    ledger = Ledger.open(home)
    read = GpuReader()
    numbers = Numbers(partial(gpu_numbers.keep, ledger))
    numbers.on(socket.gethostname(), read.read().gpus, whole=True)
    read.close()
    driver.vanish(uuid_of(0))
    shown = campaign().stdout
    assert "1 (now 0)" in shown
    assert "GPU 0: has vanished" in shown
    assert campaign("--forget", uuid_of(0)).returncode == 0
    assert "vanished" not in campaign().stdout
    again = campaign("--forget", uuid_of(0))
    assert again.returncode == 2
    assert "was never seen" in again.stderr


def test_the_verb_without_any_gpu_says_so_in_one_sentence(home, driver):
    shown = campaign()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("no GPUs here") == 1


def test_the_verb_says_what_is_wrong_with_the_driver(home, driver):
    driver.fail(MISMATCH)
    shown = campaign()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "differ in version" in shown.stdout


def test_the_verb_refuses_a_campaign_that_is_not_there(home, driver):
    refused = campaign("nobody")
    assert refused.returncode == 2
    assert "ledger" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("argv", [["--watch"], ["--watch", "--json"]])
def test_watching_follows_the_driver_and_ends_cleanly_with_ctrl_c(home, driver, argv):
    driver.set(gpus(1))
    command = [sys.executable, "-m", "prefect_campaign.cli.main", "gpus", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        first = "".join(watching.stdout.readline() for _ in range(1 if "--json" in argv else 3))
        assert "00000000" in first
        driver.set(gpus(2))
        while "00000001" not in (line := watching.stdout.readline()):
            assert line  # it ended
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
        assert watching.stderr.read() == ""


def test_whoever_reads_the_first_line_only_causes_no_traceback(home, driver):
    driver.set(gpus(1))
    command = [sys.executable, "-m", "prefect_campaign.cli.main", "gpus", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert json.loads(watching.stdout.readline())["hosts"]
        watching.stdout.close()
        assert watching.wait(60) == 0
        assert watching.stderr.read() == ""
