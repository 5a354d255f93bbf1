"""`make bench` in its quick form: every contender, a table and a file of figures, and nothing left behind."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from e2e.world import World, until

SCRIPT = Path(__file__).parents[2] / "bench" / "throughput.py"
COUNT = 16
LABELS = {
    "flow": "ours: ledger + Prefect task runs",
    "engine": "ours: ledger, without Prefect",
    "hyperqueue": "HyperQueue",
    "parallel": "GNU parallel",
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the benchmark is told to make its temporary home."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes whose home is within `folder`, this world's own apart."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("HOME", "")
        except psutil.Error:
            continue
        if Path(home).is_relative_to(folder):
            found.append(process)
    return found


def bench(disk: Path, *argv: str | Path) -> list[str]:
    words = ["--experiments", COUNT, "--slots", 4, "--repeats", 1, "--folder", disk, *argv]
    return [sys.executable, str(SCRIPT), *map(str, words)]


def test_a_quick_run_has_every_contender_and_leaves_nothing(offline: World, disk: Path) -> None:
    out = offline.folder / "new" / "figures.json"
    done = offline.run(*bench(disk, "--out", out), timeout=280)
    assert done.code == 0, f"{done.out}\n{done.err}"
    found = json.loads(out.read_text())
    absent = set(found["missing"])
    assert ("hyperqueue" in absent) == (importlib.util.find_spec("hyperqueue") is None)
    assert "parallel" in absent or shutil.which("parallel")
    for who, label in LABELS.items():
        row = next(line for line in done.out.splitlines() if line.startswith(label))
        if who in absent:
            assert "not installed" in row
            continue
        assert [run["done"] for run in found["runs"][who]] == [COUNT]
        told = found["summary"][who]
        assert f"{told['ms_each']:.2f}" in row
        assert told["ms_each"] > 0 < told["cpu_ms_each"]
    for who in ("flow", "engine"):
        told = found["summary"][who]
        assert 0 < told["refill_ms"]["p50"] <= told["refill_ms"]["p99"]
        # The steps are the whole of the wall time: nothing is counted twice, nothing is forgotten.
        assert sum(told["step_ms_each"].values()) == pytest.approx(told["ms_each"])
        assert min(told["step_ms_each"].values()) >= 0
        assert told["step_ms_each"]["start jobs"] > 0 < told["step_ms_each"]["ledger: commits to disk"]
    assert found["lasting"]["done"] == COUNT
    assert len(found["lasting"]["refill_ms"]) == COUNT - 4
    assert {label for label in found["status_seconds"] if f"{label}:" in done.out} == set(found["status_seconds"])
    assert "campaign status NAME --json" in found["status_seconds"]
    assert list(disk.iterdir()) == []
    assert processes_in(disk) == []


def test_a_peer_that_is_not_installed_is_named_in_the_table(offline: World, disk: Path) -> None:
    """Without GNU parallel on the PATH the others are measured all the same."""
    programs = offline.folder / "bin"
    programs.mkdir()
    for program in (p for place in os.get_exec_path() for p in Path(place).glob("*") if p.name != "parallel"):
        with suppress(FileExistsError):
            (programs / program.name).symlink_to(program)
    out = offline.folder / "figures.json"
    done = offline.run(*bench(disk, "--out", out, "--experiments", 4), timeout=280, PATH=str(programs))
    assert done.code == 0, f"{done.out}\n{done.err}"
    row, how = (line for line in done.out.splitlines() if line.startswith("GNU parallel"))
    assert "not installed" in row
    assert "apt install parallel" in how
    assert json.loads(out.read_text())["summary"].keys() >= {"flow", "engine"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_stops_all_that_was_started(offline: World, disk: Path, number: signal.Signals) -> None:
    log = offline.folder / "bench.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            bench(disk, "--out", offline.folder / "figures.json"),
            env=offline.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until(lambda: "bench: 1/1 flow" in log.read_text(), "the first contender starts", log.read_text)
        until(lambda: len(processes_in(disk)) >= 2, "server and contender are there", log.read_text)
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 130, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "interrupted" in log.read_text()
    assert processes_in(disk) == []
    assert list(disk.iterdir()) == []
    assert not (offline.folder / "figures.json").exists()
