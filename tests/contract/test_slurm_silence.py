"""What a cluster may do to our jobs, on the fake: silence and absence change no state, and only a look ends one."""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from contract.launchers import see, wait_until
from contract.queue_contract import see_as
from contract.slurm_world import DOWN, fake, new, spec_of
from slurm_fake import FakeSlurm

from prefect_campaign.launch.slurm.reasons import NEVER
from prefect_campaign.model.records import AttemptSpec

__all__ = ["fake", "new", "spec_of"]


async def test_a_silent_controller_changes_nothing(fake, new, clock, spec_of, tmp_path):
    spec, launcher = spec_of("sh", "-c", f"touch {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.02; done"), new()
    handle = await launcher.submit(spec)
    await wait_until((tmp_path / "up").exists)
    fake.fault("squeue", acts=False, err=DOWN, rc=1)
    for _ in range(10):
        clock.advance(600)
        seen = await see(launcher, spec, handle)
        assert seen.status == "unreachable"
        assert "Unable to contact" in seen.detail
    (view,) = await launcher.look()
    assert "Unable to contact" in view.problem
    (tmp_path / "go").touch()
    # Its own record tells the end, whether Slurm answers or not.
    assert (await see_as(launcher, spec, handle, "exited")).exit_code == 0
    fake.heal()
    await see(launcher, spec, handle)
    assert (await launcher.look())[0].problem == ""


async def test_an_answer_that_says_an_error_and_ends_with_0_is_no_answer(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.fault("squeue", acts=False, err="squeue: error: slurm_load_jobs: try again\n", rc=0)
    assert (await see(launcher, spec, handle)).status == "unreachable"


async def test_a_job_that_is_not_to_be_seen_is_looked_for_and_only_then_gone(fake, new, clock, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    clock.advance(1000)
    fake.sql("update arrays set purged = 1")
    fake.sql("update tasks set hidden = 1, state = 'CANCELLED'")  # nowhere to be seen
    for seconds in (0, 30, 29):
        clock.advance(seconds)
        assert (await see(launcher, spec, handle)).status == "pending"
        assert launcher.unsettled
    clock.advance(2)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", None)
    assert not launcher.unsettled


@pytest.mark.parametrize("jump", [-5000, 5000])
async def test_a_wall_clock_that_is_set_neither_ends_a_job_nor_keeps_one_alive(fake, new, clock, spec_of, jump):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    clock.advance(1000)
    fake.sql("update arrays set purged = 1")
    fake.sql("update tasks set hidden = 1, state = 'CANCELLED'")
    await see(launcher, spec, handle)
    clock.jump(jump)
    for seconds in (0, 30, 29):
        clock.advance(seconds)
        assert (await see(launcher, spec, handle)).status == "pending"
    clock.advance(2)
    assert (await see(launcher, spec, handle)).status == "gone"


@pytest.mark.parametrize("jump", [-5000, 5000])
async def test_a_record_is_waited_for_as_long_as_ever_when_the_wall_clock_is_set(fake, new, clock, spec_of, jump):
    fake.configure(slots=0)
    launcher = new(record_seconds=20)
    handle = await launcher.submit(spec := spec_of("true"))
    fake.sql("update tasks set state = 'COMPLETED', node = 'n2', ended = 9e9")
    assert (await see(launcher, spec, handle)).status == "running"
    clock.jump(jump)
    clock.advance(19)
    assert (await see(launcher, spec, handle)).status == "running"
    clock.advance(2)
    assert (await see(launcher, spec, handle)).status == "gone"


async def test_a_purged_job_whose_accounts_are_down_is_unreachable_and_not_gone(fake, new, clock, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.sql("update arrays set purged = 1")
    fake.fault("sacct", acts=False, err="sacct: error: Problem talking to the database: Connection refused\n", rc=1)
    for _ in range(6):
        clock.advance(700)
        seen = await see(launcher, spec, handle)
        assert seen.status in ("pending", "unreachable")
    assert seen.status == "unreachable"
    fake.heal()
    fake.sql("update tasks set state = 'NODE_FAIL', node = 'n1'")
    clock.advance(700)
    await see(launcher, spec, handle)
    clock.advance(30)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", "NODE_FAIL")


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "FAILED", "CANCELLED"])
async def test_how_slurm_says_it_ended_is_told_apart(fake, new, clock, spec_of, state):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.sql("update tasks set state = ?, node = 'n2', ended = 9e9", state)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.node) == ("running", "n2")  # a record may still come
    clock.advance(30)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state, seen.node) == ("gone", state, "n2")
    assert seen.oom_killed is (True if state == "OUT_OF_MEMORY" else None)


async def test_a_record_that_appears_late_is_believed(fake, new, clock, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.sql("update tasks set state = 'COMPLETED', node = 'n2', ended = 9e9")
    assert (await see(launcher, spec, handle)).status == "running"
    clock.advance(10)
    record = {"state": "exited", "exit_code": 0, "token": spec.token}
    (Path(spec.run_dir) / "status.json").write_text(json.dumps(record))
    assert (await see(launcher, spec, handle)).status == "exited"


async def test_an_id_that_was_given_to_somebody_else_is_not_our_job(fake, new, clock, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.sql("update arrays set name = 'somebody', comment = ''")
    clock.advance(61)
    await see(launcher, spec, handle)
    clock.advance(61)
    assert (await see(launcher, spec, handle)).status == "gone"
    await launcher.cancel(spec, handle)
    assert fake.calls("scancel") == []
    assert fake.sql("select state from tasks") == [("PENDING",)]


async def test_one_that_never_starts_is_told_from_one_that_waits(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    assert (await see(launcher, spec, handle)).detail == "waits: Priority (others come first)"
    fake.sql("update tasks set reason = 'PartitionTimeLimit'")
    seen = await see(launcher, spec, handle)
    assert seen.status == "pending"
    assert seen.stuck
    assert seen.detail.startswith(f"{NEVER}: PartitionTimeLimit: ")


async def test_a_requeued_job_runs_again_and_only_its_last_end_counts(fake, new, clock, spec_of, tmp_path):
    script = f"echo run >>{tmp_path}/runs.txt; [ $(wc -l <{tmp_path}/runs.txt) = 2 ] && exit 3; exec sleep 60"
    spec, launcher = spec_of("sh", "-c", script), new()
    handle = await launcher.submit(spec)
    await wait_until((tmp_path / "runs.txt").exists)
    await see_as(launcher, spec, handle, "running")
    await asyncio.create_subprocess_exec(str(fake.bin / "scontrol"), "requeue", handle.job_id)
    seen = await see_as(launcher, spec, handle, "pending")
    assert "BeginTime" in seen.detail
    assert seen.exit_code is None
    record = Path(spec.run_dir) / "status.json"
    await wait_until(record.exists)  # of the run that was stopped
    assert (await see(launcher, spec, handle)).status == "pending"
    fake.sql("update tasks set reason = 'Priority'")
    await asyncio.create_subprocess_exec(*_sbatch(fake, spec))  # wakes the fake
    seen = await see_as(launcher, spec, handle, "exited")
    assert seen.exit_code == 3
    assert (tmp_path / "runs.txt").read_text() == "run\nrun\n"


def _sbatch(fake: FakeSlurm, spec: AttemptSpec) -> list[str]:
    options = "--job-name=other --output=/dev/null --chdir=/ --comment="
    return ["sh", "-c", f"printf '#!/bin/sh\\n' | {fake.bin}/sbatch {options}"]


async def test_a_job_that_lost_the_claim_to_another_is_not_gone_while_that_one_runs(fake, new, clock, spec_of):
    spec = spec_of("sleep", "60")
    first = await new().submit(spec)
    await wait_until((Path(spec.run_dir) / "claim" / "pid").exists)
    (manifest,) = (Path(spec.run_dir).parents[1] / ".slurm" / "lab").glob("*.json")
    manifest.with_suffix(".answer").write_text("none")  # it was handed over late, and another one meanwhile
    launcher = new()
    assert await launcher.find(spec) == first
    fake.sql("insert into arrays select base + 1, name, comment, script, options, output, submitted, 0, 0 from arrays")
    fake.sql("insert into tasks (base, task, state, code, ended) values (102, -1, 'FAILED', 75, 0)")
    second = replace(first, job_id="102")
    for _ in range(4):
        seen = await see(launcher, spec, second)
        assert seen.status == "running"
        clock.advance(100)
    await launcher.cancel(spec, second, grace_seconds=1)
    seen = await see_as(launcher, spec, second, "exited")
    assert seen.signal == 15
    assert fake.sql("select state from tasks where base = 101") == [("CANCELLED",)]


# -- jobs that run but say nothing ----------------------------------------------------------------------------------


@pytest.fixture
def silent(new, clock, spec_of, monkeypatch):
    """A job that runs, its files written an hour ago; on the clock of the machine, for files know no other."""

    async def make():
        clock.now = time.time()
        spec, launcher = spec_of("sleep", "60"), new()
        handle = await launcher.submit(spec)
        await wait_until((Path(spec.run_dir) / "stdout.log").exists)
        await see_as(launcher, spec, handle, "running")
        for name in ("stdout.log", "stderr.log"):
            os.utime(Path(spec.run_dir) / name, (0, clock.now - 3600))
        return spec, launcher, handle

    return make


async def test_since_when_a_job_is_silent_is_told_by_its_newest_file(fake, clock, silent):
    spec, launcher, handle = await silent()
    assert (await see(launcher, spec, handle)).quiet_since == pytest.approx(clock.now - 3600, abs=60)
    (Path(spec.run_dir) / "metrics.jsonl").write_text("{}\n")
    assert (await see(launcher, spec, handle)).quiet_since == pytest.approx(clock.now, abs=60)
    await launcher.cancel(spec, handle, grace_seconds=1)
    assert (await see_as(launcher, spec, handle, "exited")).quiet_since is None


@pytest.mark.parametrize("seen_to_go_on", [True, False])
async def test_a_job_that_was_suspended_is_silent_since_it_went_on_at_most_to_a_later_process_too(
    fake, new, clock, silent, seen_to_go_on
):
    spec, launcher, handle = await silent()
    fake.sql("update tasks set state = 'SUSPENDED'")
    assert (await see(launcher, spec, handle)).quiet_since is None
    fake.sql("update tasks set state = 'RUNNING'")
    clock.jump(300)
    woke = clock.now
    if seen_to_go_on:
        assert (await see(launcher, spec, handle)).quiet_since == woke
    for _ in range(2):
        assert (await see(new(), spec, handle)).quiet_since == woke
        clock.jump(300)
    (Path(spec.run_dir) / "metrics.jsonl").write_text("{}\n")
    assert (await see(new(), spec, handle)).quiet_since > woke
    await new().cancel(spec, handle, grace_seconds=1)


async def test_a_file_server_whose_clock_is_behind_makes_no_job_look_silent(fake, clock, silent):
    spec, launcher, handle = await silent()
    clock.jump(7200)
    assert (await see(launcher, spec, handle)).quiet_since == pytest.approx(clock.now - 3600, abs=60)


@pytest.mark.parametrize("state", ["SUSPENDED", "PENDING", "STOPPED"])
async def test_a_job_that_may_not_work_now_is_not_called_silent(fake, silent, state):
    spec, launcher, handle = await silent()
    fake.sql("update tasks set state = ?", state)
    assert (await see(launcher, spec, handle)).quiet_since is None
    fake.sql("update tasks set state = 'RUNNING'")
    await launcher.cancel(spec, handle, grace_seconds=1)
