"""The launcher of queues over a scheduler that says what the test wants: looks, memory, cancelling, silence."""

import asyncio
import gc
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from contract.launchers import make_spec, see
from told import HANDLE, RUNNING, Told, claimed, launcher_of

from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.queue.cancel import Canceller
from prefect_campaign.launch.queue.jobs import Said
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.note import Note
from prefect_campaign.launch.queue.place import Here
from prefect_campaign.launch.queue.view import QueueView
from prefect_campaign.model.records import Handle

# -- cancelling -----------------------------------------------------------------------------------------------------


async def test_a_job_that_is_not_listed_once_is_cancelled_when_it_is_listed_again() -> None:
    scheduler = Told(None, RUNNING)
    canceller = Canceller("lab", scheduler, QueueView("lab", scheduler), absent_seconds=60.0)
    await asyncio.wait_for(canceller.end("t", "7", 1.0), 10)
    assert scheduler.cancelled == ["7"]


async def test_a_job_that_is_missed_for_long_enough_is_over_after_two_looks_at_least() -> None:
    scheduler = Told(None)
    canceller = Canceller("lab", scheduler, QueueView("lab", scheduler), absent_seconds=0.0)
    await asyncio.wait_for(canceller.end("t", "7", 1.0), 10)
    assert scheduler.cancelled == []
    assert scheduler.looks >= 2


# -- what qstat does not mention ------------------------------------------------------------------------------------


async def test_only_a_job_that_qstat_calls_unknown_is_absent() -> None:
    async def run(argv: Sequence[str], seconds: float) -> Said:
        if "json" in argv:
            return Said(2, "", "qstat: invalid option -- 'F'")
        return Said(35, "Job Id: 1.pbs\n    job_state = R\n", "qstat: Unknown Job Id 3.pbs")

    listing = await PbsScheduler("lab", PbsRequest(), run).see({"1.pbs": "a", "2.pbs": "b", "3.pbs": "c"}, {})
    assert set(listing.entries) == {"1.pbs"}
    assert listing.absent == {"3.pbs"}


# -- memory ---------------------------------------------------------------------------------------------------------


async def test_jobs_that_are_over_leave_nothing_in_memory(tmp_path) -> None:
    scheduler = Told(RUNNING)
    launcher = launcher_of(scheduler, patience=Patience(0.0, 0.0, 0.0))
    gc.collect()
    before = count_kept()
    specs = [make_spec(tmp_path / f"e{n}" / "a1", "true", token=f"t{n}", exp_id=f"e{n}") for n in range(2000)]
    handles = await launcher.submit_all(specs)
    await launcher.observe([(spec, handles[spec.token]) for spec in specs])
    gc.collect()
    assert count_kept() >= before + 2000
    for spec in specs:
        record = {"state": "exited", "token": spec.token, "exit_code": 0}
        (Path(spec.run_dir) / "status.json").write_text(json.dumps(record))
    seen = await launcher.observe([(spec, handles[spec.token]) for spec in specs])
    assert {one.status for one in seen.values()} == {"exited"}
    assert await launcher.find(specs[0]) == handles[specs[0].token]  # what is on disk is known all the same
    del handles, seen
    gc.collect()
    assert count_kept() <= before + 5


def count_kept() -> int:
    return sum(isinstance(one, Note | Handle) for one in gc.get_objects())


# -- silence --------------------------------------------------------------------------------------------------------


async def test_a_running_job_tells_since_when_its_logs_and_metrics_are_silent(tmp_path) -> None:
    spec = make_spec(tmp_path / "e" / "a1", "true")
    run_dir = claimed(spec)
    launcher = launcher_of(Told(RUNNING))
    assert (await see(launcher, spec, HANDLE)).quiet_since is None  # it has not written anything yet
    now = time.time()
    for name, age in (("stdout.log", 9000), ("metrics.jsonl", 4000), ("stderr.log", 7000)):
        (run_dir / name).touch()
        os.utime(run_dir / name, (now - age, now - age))
    before = sorted(path.name for path in run_dir.iterdir())
    assert (await see(launcher, spec, HANDLE)).quiet_since == pytest.approx(now - 4000, abs=5)
    (run_dir / "stdout.log").write_text("step 1\n")
    assert (await see(launcher, spec, HANDLE)).quiet_since == pytest.approx(now, abs=5)
    assert before == [name for name in sorted(path.name for path in run_dir.iterdir()) if name != "submit.json"]


@pytest.mark.parametrize("ahead", [86_400.0, -86_400.0])
async def test_a_file_server_whose_clock_is_wrong_makes_no_job_look_silent(tmp_path, ahead) -> None:
    spec = make_spec(tmp_path / "e" / "a1", "true")
    run_dir = claimed(spec)
    (run_dir / "stdout.log").write_text("step 1\n")

    def clock() -> float:  # of this machine; the disk has the other one
        return time.time() + ahead

    launcher = QueueLauncher(
        "lab", Told(RUNNING), Here("lab", clock=clock), max_jobs=9, poll_seconds=0.0, clock=clock
    )  # fmt: skip
    assert (await see(launcher, spec, HANDLE)).quiet_since == pytest.approx(clock(), abs=5)


async def test_where_the_time_of_the_disk_cannot_be_told_nothing_is_said(tmp_path, monkeypatch) -> None:
    spec = make_spec(tmp_path / "e" / "a1", "true")
    run_dir = claimed(spec)
    (run_dir / "stdout.log").touch()
    os.utime(run_dir / "stdout.log", (1, 1))

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert (await see(launcher_of(Told(RUNNING)), spec, HANDLE)).quiet_since is None
