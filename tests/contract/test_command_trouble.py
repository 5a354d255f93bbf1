"""The command launcher when something goes wrong."""

import json
from pathlib import Path

import pytest
from contract.command_lab import acme, clock, new_launcher, spec_of
from contract.launchers import PATIENCE, make_spec, see, wait_until

from prefect_campaign.launch.queue.jobs import job_mark
from prefect_campaign.launch.queue.note import read_note
from prefect_campaign.model.errors import Refused, Transient, Unknown

FIXTURES = (acme, clock, new_launcher, spec_of)


async def test_every_field_arrives_as_one_argument(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true", gpu_count=2, cpus=8, memory_mb=4096, wall_minutes=90)
    await new_launcher(fields={"pool": "a b; $HOME"}, image="it's an image").submit(spec)
    words = (acme.folder / "tasks" / "t-00001" / "options").read_text().split("\n")
    assert words == [
        "--title=pc-test-e-a1", f"--label={job_mark(spec.run_dir)}", "--gpus=2",
        "--cores=8", "--ram=4096", "--for=01:30:00", "--image=it's an image",
        "--mount=data", "--mount=home dirs", "--pool=a b; $HOME", "--", "/bin/sh", f"{spec.run_dir}/job.sh",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"), [("over quota", Transient), ("no such image", Refused), ("read timed out", Unknown)]
)
async def test_refusals_are_told_apart(acme, new_launcher, spec_of, text, kind):
    acme.fail("refuse", text)
    spec = spec_of("true")
    with pytest.raises(kind, match=text):
        await new_launcher().submit(spec)
    assert (read_note(spec) is None) == (kind is not Unknown)
    acme.mend("refuse")
    if kind is not Unknown:
        assert (await new_launcher().submit(spec)).job_id == "t-00001"


@pytest.mark.parametrize("fault", ["down", "empty"])
async def test_silence_changes_nothing(acme, new_launcher, spec_of, clock, fault):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    acme.fail(fault)
    for _ in range(3):
        assert (await see(launcher, spec, handle)).status == "unreachable"
        clock.now += 3600
    with pytest.raises(Transient):
        await launcher.cancel(spec, handle)
    if fault == "down":
        (view,) = await new_launcher().look()
        assert "503" in view.problem
    acme.mend(fault)
    assert (await see(launcher, spec, handle)).status == "pending"


async def test_a_list_without_jobs_proves_nothing_where_nothing_tells_that_it_is_whole(
    acme, new_launcher, spec_of, clock
):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher(whole_pattern="")
    handle = await launcher.submit(spec)
    acme.fail("empty")
    for _ in range(3):
        seen = await see(launcher, spec, handle)
        assert (seen.status, "proves nothing" in seen.detail) == ("unreachable", True)
        clock.now += 3600


async def test_a_word_that_is_not_known_changes_nothing_and_is_shown(acme, new_launcher, spec_of):
    acme.fail("phase", "Hibernating")
    spec = spec_of("sleep", "60")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    seen = await see(launcher, spec, handle)
    assert seen.status == "unreachable"
    assert "'Hibernating'" in seen.detail
    acme.mend("phase")
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)


@pytest.mark.parametrize(
    ("phase", "state"),
    [("Done", "COMPLETED"), ("Error", "FAILED"), ("Evicted", "PREEMPTED"), ("Overdue", "TIMEOUT"),
     ("OOM", "OUT_OF_MEMORY")],
)  # fmt: skip
async def test_a_silent_failure_has_its_reason_and_the_platforms_log(acme, new_launcher, spec_of, clock, phase, state):
    acme.fail("end", phase)
    spec = spec_of("sh", "-c", 'kill -9 "$PPID" "$$"')
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    task = acme.folder / "tasks" / handle.job_id
    await wait_until(lambda: (task / "phase").read_text() == phase)
    assert (await see(launcher, spec, handle)).status == "running"
    clock.now += 31
    seen = await see(new_launcher(), spec, handle)
    assert (seen.status, seen.exit_code, seen.scheduler_state) == ("gone", None, state)
    assert "task ended" in (Path(spec.run_dir) / "scheduler.log").read_text()


async def test_a_held_job_is_stuck(acme, new_launcher, spec_of):
    acme.fail("block")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.stuck) == ("pending", True)


async def test_a_job_that_is_not_listed_any_more_is_gone_only_after_some_time(acme, new_launcher, spec_of, clock):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    clock.now += 301
    (acme.folder / "tasks" / handle.job_id / "phase").unlink()
    assert (await see(launcher, spec, handle)).status == "unreachable"
    clock.now += 299
    assert (await see(new_launcher(), spec, handle)).status == "unreachable"
    clock.now += 2
    seen = await see(new_launcher(), spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", None)


@pytest.mark.parametrize(("what", "theirs"), [("title", "theirs"), ("label", job_mark("/elsewhere"))])
async def test_an_id_that_is_another_jobs_by_now_is_left_alone(acme, new_launcher, spec_of, what, theirs):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    task = acme.folder / "tasks" / handle.job_id
    (task / what).write_text(theirs)
    launcher._canceller._absent = 0.2
    await launcher.cancel(spec, handle)
    assert (task / "phase").read_text() == "Waiting"


async def test_a_job_that_was_handed_over_before_the_block_knew_of_marks_is_still_ours(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    (acme.folder / "tasks" / handle.job_id / "label").write_text("-")
    assert (await see(launcher, spec, handle)).status == "pending"


async def test_a_stop_that_does_nothing_is_not_believed(acme, new_launcher, spec_of):
    spec = spec_of("sh", "-c", "touch started; exec sleep 60")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    await wait_until((Path(spec.workdir) / "started").exists)
    acme.fail("deaf")
    launcher._canceller._slack = 0.2
    with pytest.raises(Transient, match="still has job t-00001"):
        await launcher.cancel(spec, handle, grace_seconds=0.1)
    acme.mend("deaf")
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 143


BY_NAME = {
    "id_pattern": "",
    "job_pattern": r"^t-\d+ +(?P<state>\w+) +(?P<node>\S+) +(?P<mark>\S+) +(?P<name>\S+)$",
    "cancel": "acme stop {names}",
    "logs": (),
}


async def test_jobs_that_go_by_their_name(acme, new_launcher, spec_of):
    """A platform that takes a name for an id; here the list is all that shows it."""
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher(**BY_NAME)
    handle = await launcher.submit(spec)
    assert handle.job_id == spec.token
    assert (await see(launcher, spec, handle)).status == "pending"
    assert json.loads((Path(spec.run_dir) / "submit.json").read_text())["job_id"] == spec.token


async def test_of_jobs_that_go_by_their_name_another_homes_is_neither_seen_as_ours_nor_ended(
    acme, new_launcher, spec_of, tmp_path
):
    acme.fail("stopped")
    spec = spec_of("true")
    theirs = make_spec(tmp_path / "elsewhere" / "e" / "a1", "true", token=spec.token)
    launcher = new_launcher(**BY_NAME)
    handle = await launcher.submit(spec)
    await new_launcher(**BY_NAME).submit(theirs)
    tasks = [acme.folder / "tasks" / task / "phase" for task in acme.tasks()]
    tasks[1].write_text("Active")
    assert (await see(launcher, spec, handle)).status == "pending"
    with pytest.raises(Transient, match="2 jobs have the name pc-test-e-a1"):
        await launcher.cancel(spec, handle)
    assert [phase.read_text() for phase in tasks] == ["Waiting", "Active"]
    tasks[1].write_text("Done")
    await launcher.cancel(spec, handle)
    assert tasks[0].read_text() == "Stopped"
    # Ours is forgotten: what still has its name is theirs.
    tasks[0].write_text("")
    tasks[1].write_text("Active")
    launcher._canceller._absent = 0.2
    await launcher.cancel(spec, handle)
    assert tasks[1].read_text() == "Active"


async def test_a_second_job_of_an_attempt_is_not_cancelled_by_the_name_of_both(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true")
    for _ in range(2):
        await new_launcher().submit(spec)
        (Path(spec.run_dir) / "submit.json").unlink()
    with pytest.raises(Transient, match="let `cancel` take "):
        await new_launcher(cancel="acme stop {names}").find(spec)
    assert {(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()} == {"Waiting"}


async def test_many_are_seen_in_one_call(acme, new_launcher, spec_of):
    acme.fail("stopped")
    launcher = new_launcher()
    specs = [spec_of("true", name=f"e{n}") for n in range(20)]
    answers = await launcher.submit_all(specs)
    before = acme.looks()
    seen = await launcher.observe([(spec, answers[spec.token]) for spec in specs])
    assert {one.status for one in seen.values()} == {"pending"}
    assert acme.looks() == before + 1
