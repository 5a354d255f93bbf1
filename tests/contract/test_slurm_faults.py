"""What a cluster may do to a submission, on the fake: nothing is lost, and nothing is handed over twice."""

import asyncio
import json
from pathlib import Path

import pytest
from contract.launchers import see
from contract.queue_contract import see_as
from contract.slurm_world import CHATTER, DOWN, NO_ANSWER, fake, jobs, new, spec_of

from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import Handle

__all__ = ["fake", "new", "spec_of"]


async def test_an_accepted_job_whose_answer_was_lost_is_found_and_not_submitted_again(fake, new, clock, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    spec = spec_of("true")
    with pytest.raises(Unknown):
        await new().submit(spec)
    assert jobs(fake) == 1
    with pytest.raises(Unknown):
        await new().submit(spec)
    handle = await new().find(spec)
    assert handle is not None
    assert (await see(new(), spec, handle)).status == "pending"
    assert jobs(fake) == 1


async def test_tasks_of_an_array_whose_answer_was_lost_are_found_by_name_and_index(fake, new, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, rc=0, times=1)
    specs = [spec_of("true", name=f"e{n}") for n in range(5)]
    answer = await new().submit_all(specs)
    assert all(isinstance(one, Unknown) for one in answer.values())
    found = [await new().find(spec) for spec in specs]
    assert [one.job_id.partition("_")[2] for one in found] == ["0", "1", "2", "3", "4"]
    assert jobs(fake) == 1


async def test_many_that_are_looked_for_do_not_each_wait_for_a_silent_controller(fake, new, spec_of):
    launcher, specs = new(array_size=1), [spec_of("true", name=f"e{n}") for n in range(8)]
    fake.fault("sbatch", acts=False, err=NO_ANSWER, rc=1)
    assert all(isinstance(one, Unknown) for one in (await launcher.submit_all(specs)).values())
    fake.fault("squeue", acts=False, err=DOWN, rc=1)
    for spec in specs:
        with pytest.raises(Transient):
            await launcher.find(spec)
    assert len(fake.calls("squeue")) == 1


async def test_a_submission_that_came_to_nothing_is_believed_after_a_grace_and_a_second_look(fake, new, clock, spec_of):
    fake.fault("sbatch", acts=False, err=NO_ANSWER, rc=1, times=1)
    spec, launcher = spec_of("true"), new()
    with pytest.raises(Unknown):
        await launcher.submit(spec)
    for seconds in (0, 200, 41):  # within the grace twice, then the first look after it
        clock.advance(seconds)
        with pytest.raises(Unknown):
            await launcher.find(spec)
        with pytest.raises(Unknown):
            await launcher.submit(spec)
    clock.advance(6)
    assert await launcher.find(spec) is None
    handle = await launcher.submit(spec)
    assert (await see_as(launcher, spec, handle, "exited")).exit_code == 0
    assert jobs(fake) == 1


@pytest.mark.parametrize("jump", [-5000, 5000])
async def test_the_grace_of_a_submission_is_no_shorter_or_longer_when_the_wall_clock_is_set(
    fake, new, clock, spec_of, jump
):
    fake.fault("sbatch", acts=False, err=NO_ANSWER, rc=1, times=1)
    spec, launcher = spec_of("true"), new()
    with pytest.raises(Unknown):
        await launcher.submit(spec)
    clock.jump(jump)
    for seconds in (6, 200, 40):
        clock.advance(seconds)
        with pytest.raises(Unknown):
            await launcher.find(spec)
    clock.advance(6)
    assert await launcher.find(spec) is None


@pytest.mark.parametrize("deaf", ["squeue", "sacct"])
async def test_while_slurm_cannot_be_asked_nothing_is_said_to_be_absent(fake, new, clock, spec_of, deaf):
    fake.fault("sbatch", acts=False, err=NO_ANSWER, rc=1, times=1)
    fake.fault(deaf, acts=False, err=DOWN, rc=1)
    spec, launcher = spec_of("true"), new()
    with pytest.raises(Unknown):
        await launcher.submit(spec)
    for _ in range(5):
        clock.advance(600)
        with pytest.raises((Transient, Unknown)):
            await launcher.find(spec)
    fake.heal()
    clock.advance(3)
    with pytest.raises(Unknown):
        await launcher.find(spec)
    clock.advance(60)
    assert await launcher.find(spec) is None


async def test_two_jobs_of_one_attempt_the_first_stays(fake, new, clock, spec_of):
    fake.configure(slots=0)
    spec = spec_of("true")
    await new().submit(spec)
    # As if somebody had lost all notes, and handed the attempt over again.
    for path in (Path(spec.run_dir).parents[1] / ".slurm" / "lab").glob("*.answer"):
        path.unlink()
    options = json.loads(next((Path(spec.run_dir).parents[1] / ".slurm" / "lab").glob("*.json")).read_text())["options"]
    fake.sql("insert into arrays select base + 1, name, comment, script, options, output, submitted, 0, 0 from arrays")
    fake.sql("insert into tasks (base, task, state) select base + 1, task, state from tasks")
    assert f"--job-name={spec.token}" in options
    fake.fault("scancel", acts=False)
    looking = asyncio.ensure_future(new().find(spec))
    while not looking.done():
        await asyncio.sleep(0.1)
        clock.advance(10)
    with pytest.raises(Transient):  # nor is the second one forgotten
        await looking
    fake.heal()
    handle = await new().find(spec)
    assert handle.job_id == "101"
    assert fake.sql("select base, state from tasks order by base") == [(101, "PENDING"), (102, "CANCELLED")]


async def test_two_jobs_of_one_attempt_the_one_that_runs_stays(fake, new, spec_of):
    fake.configure(slots=0)
    spec = spec_of("true")
    await new().submit(spec)
    folder = Path(spec.run_dir).parents[1] / ".slurm" / "lab"
    for path in folder.glob("*.answer"):
        path.unlink()
    fake.sql("insert into arrays select base + 1, name, comment, script, options, output, submitted, 0, 0 from arrays")
    fake.sql("insert into tasks (base, task, state, node) select base + 1, task, 'RUNNING', 'n1' from tasks")
    handle = await new().find(spec)
    assert handle.job_id == "102"
    assert fake.sql("select base, state from tasks order by base") == [(101, "CANCELLED"), (102, "RUNNING")]
    assert [path.read_text() for path in folder.glob("*.answer")] == ["102"]
    assert await new().find(spec) == handle


def twin(fake, base: int = 101, comment: str = "") -> None:
    """The same array once more, as if sbatch had been called twice."""
    (new,) = fake.sql("select max(base) + 1 from arrays")[0]
    mark = "?" if comment else "comment"
    fake.sql(
        f"insert into arrays select ?, name, {mark}, script, options, output, submitted, 1, 0 from arrays where base=?",
        *(new, *([comment] if comment else []), base),
    )
    fake.sql("insert into tasks (base, task, state) select ?, task, state from tasks where base=?", new, base)


def states(fake) -> dict[int, str]:
    """First letters of the states of all tasks, by array."""
    found: dict[int, str] = {}
    for base, state in fake.sql("select base, state from tasks order by base, task"):
        found[base] = found.get(base, "") + state[0]
    return found


@pytest.mark.parametrize("claimed", [False, True])
async def test_of_an_array_that_is_there_twice_no_task_stays_in_the_queue_for_nothing(fake, new, spec_of, claimed):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    specs = [spec_of("true", name=f"e{n}") for n in range(4)]
    await new().submit_all(specs)
    twin(fake)
    twin(fake, comment="pc:somebody-elses")
    fake.sql("update tasks set state='RUNNING', node='n1' where base=102 and task=2")
    first = 102 if claimed else 101
    if claimed:
        claim = Path(specs[0].run_dir) / "claim"
        claim.mkdir()
        (claim / "job").write_text("102_0 0\n")
        fake.sql("update tasks set state='RUNNING', node='n1' where base=102 and task=0")
    assert (await new().find(specs[0])).job_id == f"{first}_0"
    # What runs goes on, and so does what waits elsewhere.
    expected = {101: "CCCC", 102: "RPRP"} if claimed else {101: "PPCP", 102: "CCRC"}
    assert states(fake) == {**expected, 103: "PPPP"}
    assert (await new().find(specs[3])).job_id == f"{first}_3"


async def test_a_task_whose_twin_is_over_is_left_to_the_claim(fake, new, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    specs = [spec_of("true", name=f"e{n}") for n in range(3)]
    await new().submit_all(specs)
    twin(fake)
    fake.sql("update tasks set state='FAILED', ended=strftime('%s') where base=101 and task=2")
    await new().find(specs[0])
    assert states(fake) == {101: "PPF", 102: "CCP"}


async def test_a_job_with_the_same_name_from_another_home_is_not_ours(fake, new, clock, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    spec = spec_of("true")
    with pytest.raises(Unknown):
        await new().submit(spec)
    fake.sql("update arrays set comment = 'pc:somebody-elses'")
    with pytest.raises(Unknown):
        await new().find(spec)


async def test_a_job_that_squeue_does_not_show_is_cancelled_if_the_accounts_call_it_alive(fake, new, spec_of):
    spec, launcher = spec_of("sleep", "60"), new()
    handle = await launcher.submit(spec)
    await see_as(launcher, spec, handle, "running")
    fake.fault("squeue", acts=False, rc=0)
    await launcher.cancel(spec, handle, grace_seconds=1)
    assert len(fake.calls("scancel")) == 1
    fake.heal()
    await see_as(launcher, spec, handle, "exited")


async def test_chatter_around_the_id_is_not_taken_for_it(fake, new, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", before=CHATTER, err="sbatch: info: 12 SUs left\n")
    fake.fault("squeue", before="motd: pc|1|RUNNING\n\n")
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    assert handle.job_id == "101"
    assert (await see(launcher, spec, handle)).status == "pending"


async def test_a_limit_of_submitted_jobs_lets_in_what_fits_and_the_rest_later(fake, new, spec_of):
    fake.configure(slots=0, max_submit=10)
    specs = [spec_of("true", name=f"e{n}") for n in range(40)]
    launcher = new()
    answer = await launcher.submit_all(specs)
    kinds = [type(answer[spec.token]) for spec in specs]
    assert kinds.count(Handle) == 10
    assert all(isinstance(one, Handle | Transient) for one in answer.values())
    assert len(fake.calls("sbatch")) <= 12
    fake.configure(max_submit=None)
    rest = [spec for spec in specs if not isinstance(answer[spec.token], Handle)]
    again = await launcher.submit_all(rest)
    assert all(isinstance(one, Handle) for one in again.values())
    assert fake.sql("select count(*) from tasks")[0][0] == 40


async def test_a_smaller_cluster_than_the_block_says_gets_smaller_arrays(fake, new, spec_of):
    fake.configure(slots=0, max_array_size=4)
    specs = [spec_of("true", name=f"e{n}") for n in range(10)]
    answer = await new(array_size=10).submit_all(specs)
    assert all(isinstance(one, Handle) for one in answer.values())
    assert fake.sql("select count(*) from tasks")[0][0] == 10
    sizes = [size for (size,) in fake.sql("select count(*) from tasks group by base")]
    assert max(sizes) <= 4


async def test_a_wrong_partition_is_refused_once_for_all_with_what_to_do(fake, new, spec_of):
    specs = [spec_of("true", name=f"e{n}") for n in range(3)]
    answer = await new(partition="nosuch").submit_all(specs)
    assert all(isinstance(one, Refused) for one in answer.values())
    assert "sinfo" in str(answer[specs[0].token])
    assert len(fake.calls("sbatch")) == 1


async def test_a_manifest_that_cannot_be_written_starts_nothing(fake, new, spec_of, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefect_campaign.launch.slurm.manifest.durable", full)
    with pytest.raises(Transient):
        await new().submit(spec_of("true"))
    assert fake.calls("sbatch") == []


async def test_an_array_that_shows_up_after_it_was_believed_to_be_nothing_is_found_by_its_claim(fake, new, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    specs = [spec_of("true", name=f"e{n}") for n in range(3)]
    await new().submit_all(specs)
    (manifest,) = (Path(specs[0].run_dir).parents[1] / ".slurm" / "lab").glob("*.json")
    manifest.with_suffix(".answer").write_text("none")
    assert await new().find(specs[0]) is None
    claim = Path(specs[1].run_dir) / "claim"
    claim.mkdir()
    (claim / "job").write_text("101_1 0\n")
    launcher = new()
    handle = await launcher.find(specs[1])
    assert (handle.job_id, handle.detail["name"]) == ("101_1", manifest.stem)
    assert (await launcher.find(specs[0])).job_id == "101_0"
    # Handed over twice: what claims is ours, whichever of the two is on record.
    (claim / "job").write_text("102_1 0\n")
    handle = await launcher.find(specs[1])
    assert (handle.job_id, handle.detail["name"]) == ("102_1", manifest.stem)
