"""Looking at jobs of PBS when something goes wrong: silence changes no state."""

import asyncio
import json
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, see, wait_until
from contract.pbs_lab import clock, launcher, new_launcher, pbs, run_and_note, spec_of
from ends import ended

from prefect_campaign.launch.queue.jobs import job_mark
from prefect_campaign.model.errors import Transient

FIXTURES = (clock, launcher, new_launcher, pbs, spec_of)


@pytest.mark.parametrize("fault", ["down", "empty"])
async def test_silence_changes_nothing(pbs, new_launcher, spec_of, clock, fault):
    spec = spec_of("sleep", "60")
    handle = await run_and_note(new_launcher(), spec)
    launcher = new_launcher()
    assert (await see(launcher, spec, handle)).status == "running"
    pbs.fail(fault)
    for _ in range(5):
        assert (await see(launcher, spec, handle)).status == "unreachable"
        clock.now += 3600
    with pytest.raises(Transient):
        await launcher.cancel(spec, handle)
    pbs.mend(fault)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.node) == ("running", "node7")
    await launcher.cancel(spec, handle)


@pytest.mark.parametrize("faults", [["nojson"], ["bad_json"], ["first_only"], ["torque"], ["nohistory"]])
async def test_every_kind_of_qstat_is_understood(pbs, launcher, spec_of, faults):
    for fault in faults:
        pbs.fail(fault)
    good = [spec_of("sh", "-c", f"until [ -e go ]; do sleep 0.02; done; exit {n}", name=f"e{n}") for n in range(3)]
    for spec in good:
        Path(spec.workdir).mkdir(exist_ok=True, parents=True)
    pairs = [(spec, await run_and_note(launcher, spec)) for spec in good]
    seen = await launcher.observe(pairs)
    assert {one.status for one in seen.values()} == {"running"}
    before = len(pbs.calls("qstat"))
    await launcher.observe(pairs)
    assert len(pbs.calls("qstat")) == before + 1
    (Path(good[0].workdir) / "go").touch()
    await asyncio.wait_for(asyncio.gather(*(ended(launcher, *pair) for pair in pairs)), PATIENCE)
    seen = await launcher.observe(pairs)
    assert [seen[spec.token].exit_code for spec in good] == [0, 1, 2]


async def test_a_job_that_is_purged_without_a_record_is_gone_after_grace_and_a_second_look(
    pbs, new_launcher, spec_of, clock
):
    pbs.fail("stopped")
    spec, other = spec_of("true"), spec_of("true", name="other")
    launcher = new_launcher()
    handle, second = await launcher.submit(spec), await launcher.submit(other)
    pbs.purge(1)
    assert (await see(launcher, spec, handle)).status == "pending"  # taken a moment ago
    clock.now += 61
    # The grace began with the first look, and a launcher of another process goes on with it.
    assert (await see(new_launcher(), spec, handle)).status == "gone"
    seen = await new_launcher().observe([(spec, handle), (other, second)])
    assert (seen[spec.token].status, seen[spec.token].scheduler_state) == ("gone", None)
    assert seen[other.token].status == "pending"


async def test_a_job_that_ended_by_itself_is_seen_though_pbs_has_forgotten_it(pbs, launcher, spec_of):
    pbs.fail("purge")
    spec = spec_of("sh", "-c", "exit 3")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 3


@pytest.mark.parametrize(
    ("status", "used", "state"),
    [
        ("-29", {}, "TIMEOUT"),
        ("271", {"walltime": "02:00:05"}, "TIMEOUT"),
        ("271", {}, "CANCELLED"),
        ("265", {"mem": "2gb"}, "OUT_OF_MEMORY"),
        ("-27", {}, "OUT_OF_MEMORY"),
        ("-20", {}, "NODE_FAIL"),
        ("-3", {}, "NODE_FAIL"),
        ("0", {}, "COMPLETED"),
        ("1", {}, "FAILED"),
    ],
)
async def test_a_silent_failure_has_its_reason(pbs, new_launcher, spec_of, clock, status, used, state):
    """The job is gone without a record of its own: PBS's word is taken, and a success is not made of it."""
    pbs.fail("exit", status)
    pbs.fail("used", json.dumps(used))
    spec = spec_of("sh", "-c", 'kill -9 "$PPID" "$$"', wall_minutes=120, memory_mb=2048)
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    await wait_until(lambda: pbs.jobs()[1]["job_state"] == "F")
    waiting = await see(launcher, spec, handle)
    assert (waiting.status, waiting.scheduler_state) == ("running", None)
    assert "waiting for its record" in waiting.detail
    clock.now += 31
    seen = await see(new_launcher(), spec, handle)
    assert (seen.status, seen.exit_code, seen.scheduler_state) == ("gone", None, state)
    assert seen.oom_killed is (True if state == "OUT_OF_MEMORY" else None)
    assert "Exit_status" in seen.detail


async def test_what_pbs_says_goes_with_an_exit_by_a_signal(pbs, launcher, spec_of):
    pbs.fail("exit", "-29")
    spec = spec_of("sh", "-c", "kill -TERM $$")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code, seen.scheduler_state) == ("exited", 143, "TIMEOUT")


async def test_a_held_job_is_stuck_until_it_is_released(pbs, launcher, spec_of):
    pbs.fail("held")
    spec = spec_of("true")
    handle = await launcher.submit(spec)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.stuck) == ("pending", True)
    assert "held by its user" in seen.detail
    pbs.change(1, depend="afterok:7.pbs@pbs")
    assert not (await see(launcher, spec, handle)).stuck
    pbs.mend("held")
    pbs.start(1)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 0


@pytest.mark.parametrize(
    ("letter", "status"),
    [("Q", "pending"), ("W", "pending"), ("T", "pending"), ("R", "running"), ("E", "running"), ("S", "running"),
     ("U", "running"), ("B", "running"), ("M", "unreachable"), ("Z", "unreachable")],
)  # fmt: skip
async def test_states(pbs, launcher, spec_of, letter, status):
    pbs.fail("stopped")
    spec = spec_of("true")
    handle = await launcher.submit(spec)
    pbs.change(1, job_state=letter)
    assert (await see(launcher, spec, handle)).status == status


@pytest.mark.parametrize("home", ["somebody's", "another of ours"])
async def test_an_id_that_is_somebody_elses_by_now_is_neither_ours_nor_cancelled(pbs, launcher, spec_of, clock, home):
    pbs.fail("stopped")
    spec = spec_of("true")
    handle = await launcher.submit(spec)
    if home == "somebody's":
        pbs.change(1, Job_Name="theirs", Variable_List={}, job_state="R")
    else:
        variables = {"CAMPAIGN_TOKEN": spec.token, "CAMPAIGN_MARK": job_mark("/elsewhere")}
        pbs.change(1, Variable_List=variables, job_state="R")
    clock.now += 61
    assert (await see(launcher, spec, handle)).status == "unreachable"
    launcher._canceller._absent = 0.2
    await launcher.cancel(spec, handle)
    assert pbs.calls("qdel") == []
    clock.now += 61
    assert (await see(launcher, spec, handle)).status == "gone"


async def test_a_requeued_job_goes_on_in_its_run_dir_and_nothing_else_may(pbs, launcher, spec_of):
    spec = spec_of("sh", "-c", "echo run; until [ -e go ]; do sleep 0.02; done", name="e")
    handle = await run_and_note(launcher, spec)
    log = launcher.logs(spec)[0]
    await wait_until(lambda: log.exists() and log.read_text() == "run\n")
    pbs.requeue(1)
    assert (await see(launcher, spec, handle)).status == "pending"
    pbs.start(1)
    await wait_until(lambda: log.read_text() == "run\nrun\n")
    (Path(spec.workdir) / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 0
    pbs.start(1)
    await wait_until(lambda: pbs.jobs()[1]["run_count"] == 3 and pbs.jobs()[1]["job_state"] == "F")
    assert log.read_text() == "run\nrun\n"


async def end_after_another_run(pbs, launcher, new_launcher, spec, handle) -> int | None:
    """Exit code of a stopped job that PBS runs again: until then it waits, whoever looks, and is never over."""
    assert (await see(launcher, spec, handle)).status == "pending"
    pbs.fail("down")
    assert (await see(new_launcher(), spec, handle)).status == "unreachable"
    pbs.mend("down")
    pbs.start(1)
    await wait_until(lambda: launcher.logs(spec)[0].read_text() == "run\nrun\n")
    assert (await see(launcher, spec, handle)).status == "running"
    (Path(spec.workdir) / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    return (await see(launcher, spec, handle)).exit_code


async def test_a_job_that_is_stopped_to_run_again_later_has_not_ended(pbs, launcher, new_launcher, spec_of):
    """A preempted job leaves a record of its end by TERM. Two attempts would live if that were believed."""
    spec = spec_of("sh", "-c", "echo run; until [ -e go ]; do sleep 0.02; done")
    handle = await run_and_note(launcher, spec)
    log = launcher.logs(spec)[0]
    await wait_until(lambda: log.exists() and log.read_text() == "run\n")
    pbs.requeue(1, "term")
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    assert await end_after_another_run(pbs, launcher, new_launcher, spec, handle) == 0


async def test_a_job_that_saves_its_state_when_it_is_stopped_and_exits_0_has_not_ended(
    pbs, launcher, new_launcher, spec_of
):
    code = "trap 'exit 0' TERM; echo run; until [ -e go ]; do sleep 0.02; done; exit 3"
    spec = spec_of("sh", "-c", code)
    handle = await run_and_note(launcher, spec)
    log = launcher.logs(spec)[0]
    await wait_until(lambda: log.exists() and log.read_text() == "run\n")
    pbs.requeue(1, "term")
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    assert '"exit_code":0' in (Path(spec.run_dir) / "status.json").read_text()
    assert await end_after_another_run(pbs, launcher, new_launcher, spec, handle) == 3


async def test_a_job_that_is_stopped_to_run_again_later_can_be_cancelled(pbs, launcher, spec_of):
    spec = spec_of("sleep", "60")
    handle = await run_and_note(launcher, spec)
    pbs.requeue(1, "term")
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    await launcher.cancel(spec, handle)
    assert pbs.jobs()[1]["job_state"] == "F"
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code, seen.scheduler_state) == ("exited", 143, "CANCELLED")
