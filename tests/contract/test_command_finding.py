"""Jobs of the command launcher whose id was lost on the way: which are ours, and what proves nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from contract.command_lab import UNMARKED, acme, clock, new_launcher, spec_of
from contract.launchers import PATIENCE, make_spec, wait_until

from prefect_campaign.launch.queue.note import read_note, write_note
from prefect_campaign.model.errors import NoRoom, Refused, Transient, Unknown

FIXTURES = (acme, clock, new_launcher, spec_of)


async def test_an_answer_that_is_lost_is_made_good_by_the_name(acme, new_launcher, spec_of):
    acme.fail("lost")
    acme.fail("stopped")
    spec = spec_of("true")
    handle = await new_launcher().submit(spec)
    assert handle.job_id == "t-00001"
    assert acme.tasks() == ["t-00001"]
    assert await new_launcher().find(spec) == handle


async def test_a_job_of_another_home_with_the_same_name_is_neither_adopted_nor_cancelled(
    acme, new_launcher, spec_of, tmp_path
):
    acme.fail("stopped")
    ours = spec_of("true")
    theirs = make_spec(tmp_path / "elsewhere" / "e" / "a1", "true", token=ours.token)
    await new_launcher().submit(theirs)
    assert await new_launcher().find(ours) is None
    acme.fail("lost")
    assert (await new_launcher().submit(ours)).job_id == "t-00002"
    (Path(ours.run_dir) / "submit.json").unlink()
    assert (await new_launcher().find(ours)).job_id == "t-00002"
    assert {(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()} == {"Waiting"}


async def test_of_two_jobs_of_one_attempt_the_older_stays_and_the_other_is_cancelled(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true")
    for _ in range(2):
        await new_launcher().submit(spec)
        (Path(spec.run_dir) / "submit.json").unlink()
    assert (await new_launcher().find(spec)).job_id == "t-00001"
    phases = [(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()]
    assert phases == ["Waiting", "Stopped"]


@pytest.mark.parametrize("count", [1, 2])
async def test_where_lists_show_no_marks_a_job_of_the_same_name_is_neither_adopted_nor_cancelled(
    acme, new_launcher, spec_of, count
):
    acme.fail("stopped")
    spec = spec_of("true")
    for _ in range(count):
        await new_launcher().submit(spec)
        (Path(spec.run_dir) / "submit.json").unlink()
    with pytest.raises(Unknown, match="nothing tells whose they are"):
        await new_launcher(job_pattern=UNMARKED).find(spec)
    assert {(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()} == {"Waiting"}


async def test_where_lists_show_no_marks_a_lost_answer_is_made_good_once_the_job_has_its_run_dir(
    acme, new_launcher, spec_of
):
    acme.fail("lost")
    spec = spec_of("sleep", "60")
    with pytest.raises(Unknown, match="connection reset"):
        await new_launcher(job_pattern=UNMARKED).submit(spec)
    await wait_until((Path(spec.run_dir) / "claim").exists)
    launcher = new_launcher(job_pattern=UNMARKED)
    handle = await launcher.find(spec)
    assert handle.job_id == "t-00001"
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)


async def test_an_empty_list_proves_nothing_to_who_looks_for_a_job(acme, new_launcher, spec_of, clock):
    """A log-in page, say: it has no jobs on it either."""
    acme.fail("stopped")
    acme.fail("lost")
    spec = spec_of("true")
    await new_launcher().submit(spec)
    note = read_note(spec)
    write_note(spec, replace(note, job_id=""))
    acme.fail("empty")
    for find in ((), ["acme", "ps", "{name}"]):
        launcher = new_launcher(whole_pattern="", find=find)
        for _ in range(3):
            with pytest.raises(Transient, match="proves nothing"):
                await launcher.find(spec)
            clock.now += 3600
    acme.mend("empty")
    assert (await launcher.find(spec)).job_id == "t-00001"


async def test_a_platform_that_says_no_is_believed_where_the_list_proves_nothing(acme, new_launcher, spec_of):
    acme.fail("empty")
    for text, kind in (("over quota", NoRoom), ("no such image", Refused)):
        acme.fail("refuse", text)
        spec = spec_of("true", name=text[:2])
        with pytest.raises(kind, match=text):
            await new_launcher(whole_pattern="").submit(spec)


async def test_of_two_jobs_with_one_name_none_is_taken_where_nothing_tells_them_apart(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true")
    for _ in range(2):
        await new_launcher().submit(spec)
        (Path(spec.run_dir) / "submit.json").unlink()
    (Path(spec.run_dir) / "claim").mkdir()
    with pytest.raises(Unknown, match="nothing tells whose they are"):
        await new_launcher(job_pattern=UNMARKED).find(spec)
    assert {(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()} == {"Waiting"}


async def test_of_several_jobs_without_names_none_is_taken_and_none_cancelled(acme, new_launcher, spec_of):
    acme.fail("stopped")
    for name in ("e", "other"):
        await new_launcher().submit(spec_of("true", name=name))
    (Path(spec_of("true").run_dir) / "submit.json").unlink()
    launcher = new_launcher(job_pattern=r"^(?P<id>t-\d+) +(?P<state>\w+)", find=["acme", "ps", "{name}"])
    with pytest.raises(Unknown, match="2 jobs and no names"):
        await launcher.find(spec_of("true"))
    assert {(acme.folder / "tasks" / task / "phase").read_text() for task in acme.tasks()} == {"Waiting"}


async def test_without_names_a_lost_answer_stays_unknown(acme, new_launcher, spec_of, clock):
    acme.fail("lost")
    acme.fail("stopped")
    nameless = {"job_pattern": r"^(?P<id>t-\d+) +(?P<state>\w+)"}
    spec = spec_of("true")
    with pytest.raises(Unknown, match="lists no names"):
        await new_launcher(**nameless).submit(spec)
    clock.now += 3600
    with pytest.raises(Unknown):
        await new_launcher(**nameless).find(spec)
