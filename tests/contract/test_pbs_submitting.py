"""Handing jobs to PBS when something goes wrong: none is lost, and none runs twice."""

import asyncio
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, see, wait_until
from contract.pbs_lab import clock, launcher, new_launcher, pbs, spec_of
from ends import ended

from prefect_campaign.launch.queue.note import read_note
from prefect_campaign.model.errors import Refused, Transient, Unknown

FIXTURES = (clock, launcher, new_launcher, pbs, spec_of)


@pytest.mark.parametrize("how", ["silent", "error"])
async def test_an_answer_that_is_lost_after_acceptance_loses_no_job(pbs, new_launcher, spec_of, how):
    pbs.fail("lost", how)
    pbs.fail("stopped")
    spec = spec_of("true")
    handle = await new_launcher().submit(spec)
    assert handle.job_id == "1.pbs"
    assert len(pbs.jobs()) == 1
    assert await new_launcher().find(spec) == handle


@pytest.mark.parametrize("pbs", ["without qselect"], indirect=True)
async def test_an_answer_that_is_lost_with_the_server_is_unknown_until_it_is_back(pbs, new_launcher, spec_of):
    spec = spec_of("true")
    pbs.fail("lost", "silent")
    pbs.fail("empty")
    with pytest.raises(Unknown):
        await new_launcher().submit(spec)
    with pytest.raises((Unknown, Transient)):
        await new_launcher().submit(spec)
    pbs.mend("empty")
    assert (await new_launcher().find(spec)).job_id == "1.pbs"
    assert len(pbs.jobs()) == 1


async def test_a_qsub_that_hangs_after_acceptance_is_unknown_and_then_found(pbs, new_launcher, spec_of, monkeypatch):
    monkeypatch.setattr("prefect_campaign.launch.pbs.scheduler._SECONDS", 1.0)
    pbs.fail("lost", "hang")
    spec = spec_of("true")
    with pytest.raises(Unknown, match="did not end within"):
        await new_launcher().submit(spec)
    assert (await new_launcher().find(spec)).job_id == "1.pbs"
    assert len(pbs.jobs()) == 1


async def test_nothing_was_taken_while_the_server_is_down(pbs, new_launcher, spec_of):
    pbs.fail("down")
    spec = spec_of("true")
    with pytest.raises(Transient, match="cannot connect"):
        await new_launcher().submit(spec)
    assert read_note(spec) is None
    (view,) = await new_launcher().look()
    assert "PBS does not answer" in view.problem
    pbs.mend("down")
    assert (await new_launcher().submit(spec)).job_id == "1.pbs"


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("would exceed complex's per-user limit of jobs in 'Q' state", 1, Transient),
        ("Maximum number of jobs already in queue", 46, Transient),
        ("Request not allowed: Server shutting down", 1, Transient),
        ("Invalid credential", 171, Transient),
        ("Communication failure.", 1, Unknown),
        ("End of File", 223, Unknown),
        ("Connection timed out", 1, Unknown),
        ("Unknown queue", 170, Refused),
        ("No walltime given. The site says no!", 1, Refused),
        ("Access from host not allowed, or unknown host", 1, Refused),
        ("Job violates queue and/or server resource limits", 188, Refused),
    ],
)
async def test_refusals_are_told_apart(pbs, launcher, spec_of, text, code, kind):
    pbs.fail("refuse", text)
    pbs.fail("refuse_code", str(code))
    spec = spec_of("true")
    with pytest.raises(kind) as told:
        await launcher.submit(spec)
    assert text.rstrip(".") in str(told.value)
    assert "\n" not in str(told.value)
    assert (read_note(spec) is None) == (kind is not Unknown)


async def test_banners_and_chatter_on_stdout_hide_no_id(pbs, launcher, spec_of):
    pbs.fail("banner", "*** Maintenance on Monday 12.5 ***\n7 users\nquota: {used: 3}")
    spec = spec_of("true")
    handle = await launcher.submit(spec)
    assert handle.job_id == "1.pbs"
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 0


async def test_a_note_is_on_disk_before_pbs_is_asked(pbs, new_launcher, spec_of, clock):
    """As after a crash between the two: for a while nobody can say, then the same token may go out again."""
    spec = spec_of("true")
    launcher = new_launcher()
    seen = []

    async def die(argv, seconds):
        seen.append(read_note(spec))
        raise asyncio.CancelledError

    launcher._scheduler._run = die
    with pytest.raises(asyncio.CancelledError):
        await launcher.submit(spec)
    assert [(note.token, note.job_id) for note in seen] == [(spec.token, "")]
    other = new_launcher()
    with pytest.raises(Unknown, match="does not list it yet"):
        await other.find(spec)
    with pytest.raises(Unknown):
        await other.submit(spec)
    clock.now += 239
    with pytest.raises(Unknown, match="does not list it yet"):
        await other.find(spec)
    clock.now += 2
    with pytest.raises(Unknown, match="once more"):
        await other.find(spec)
    assert await other.find(spec) is None
    assert (await other.submit(spec)).job_id == "1.pbs"


async def test_a_job_of_another_home_with_the_same_name_is_neither_adopted_nor_cancelled(
    pbs, new_launcher, spec_of, tmp_path
):
    pbs.fail("stopped")
    ours = spec_of("true")
    theirs = make_spec(tmp_path / "elsewhere" / "e" / "a1", "true", token=ours.token)
    await new_launcher().submit(theirs)
    assert await new_launcher().find(ours) is None
    pbs.fail("lost", "silent")
    assert (await new_launcher().submit(ours)).job_id == "2.pbs"
    (Path(ours.run_dir) / "submit.json").unlink()
    assert (await new_launcher().find(ours)).job_id == "2.pbs"
    assert pbs.calls("qdel") == []


async def test_the_job_that_claimed_the_run_dir_counts_and_not_the_one_that_came_too_late(
    pbs, new_launcher, spec_of, clock
):
    """The first one was late in the list, so that the attempt was handed over twice; the first to start has it."""
    spec = spec_of("sleep", "60")
    pbs.fail("stopped")
    launcher = new_launcher()
    await launcher.submit(spec)
    (Path(spec.run_dir) / "submit.json").unlink()
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    pbs.start(1)
    await wait_until((Path(spec.run_dir) / "claim" / "job").exists)
    pbs.start(2)
    await wait_until(lambda: pbs.jobs()[2]["job_state"] == "F")
    assert (handle.job_id, pbs.jobs()[2]["Exit_status"]) == ("2.pbs", 75)
    for _ in range(3):
        assert (await see(launcher, spec, handle)).status == "running"
        clock.now += 3600
    await launcher.cancel(spec, handle)
    assert pbs.jobs()[1]["job_state"] == "F"
    assert (await see(launcher, spec, handle)).exit_code == 143


async def test_a_job_that_ended_before_is_not_taken_for_the_one_whose_answer_was_lost(pbs, new_launcher, spec_of):
    pbs.fail("stopped")
    spec = spec_of("true")
    await new_launcher().submit(spec)
    (Path(spec.run_dir) / "submit.json").unlink()  # as if its home had been removed, and made again
    pbs.change(1, job_state="F")
    assert await new_launcher().find(spec) is None
    pbs.fail("refuse", "Communication failure")
    with pytest.raises(Unknown):
        await new_launcher().submit(spec)


async def test_of_two_jobs_of_one_attempt_the_older_stays(pbs, new_launcher, spec_of, clock):
    pbs.fail("stopped")
    spec = spec_of("true")
    await new_launcher().submit(spec)
    (Path(spec.run_dir) / "submit.json").unlink()
    await new_launcher().submit(spec)
    (Path(spec.run_dir) / "submit.json").unlink()
    assert (await new_launcher().find(spec)).job_id == "1.pbs"
    assert {n: job["job_state"] for n, job in pbs.jobs().items()} == {1: "Q", 2: "F"}
