"""What a cluster may do to us, on the fake: nothing is lost, nothing runs twice, and silence changes no state."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FakeClock
from contract.launchers import make_spec, see, wait_until
from contract.queue_contract import see_as
from slurm_fake import FakeSlurm

from prefect_campaign.launch.slurm import SlurmLauncher
from prefect_campaign.launch.slurm_reasons import NEVER
from prefect_campaign.launch.slurm_settings import SlurmSettings
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

NO_ANSWER = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
SUBMIT_LIMIT = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
SUBMIT_LIMIT += "accounting/QOS policy (job submit limit, user's size and/or time limits)\n"
CHATTER = "Welcome to the cluster!\nsbatch: lua: Submitted job 99\n\n"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "cluster")


@pytest.fixture
def new(fake: FakeSlurm, clock: FakeClock) -> Iterator[Callable[..., SlurmLauncher]]:
    made: list[SlurmLauncher] = []

    def make(**changes) -> SlurmLauncher:
        settings = SlurmSettings("lab", programs=str(fake.bin), **changes)
        made.append(SlurmLauncher(settings, poll_seconds=0, clock=clock))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., AttemptSpec]:
    def build(*argv: str, name: str = "e", **changes) -> AttemptSpec:
        return make_spec(tmp_path / "runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", **changes)

    return build


def jobs(fake: FakeSlurm) -> int:
    return fake.sql("select count(*) from arrays")[0][0]


# -- submitting -----------------------------------------------------------------------------------------------------


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


async def test_a_submission_that_came_to_nothing_is_believed_after_a_grace_and_a_second_look(fake, new, clock, spec_of):
    fake.fault("sbatch", acts=False, err=NO_ANSWER, rc=1, times=1)
    spec, launcher = spec_of("true"), new()
    with pytest.raises(Unknown):
        await launcher.submit(spec)
    for seconds in (0, 60, 31):  # within the grace twice, then the first look after it
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
    handle = await new().find(spec)
    assert handle.job_id == "101"
    assert fake.sql("select base, state from tasks order by base") == [(101, "PENDING"), (102, "CANCELLED")]


async def test_a_job_with_the_same_name_from_another_home_is_not_ours(fake, new, clock, spec_of):
    fake.configure(slots=0)
    fake.fault("sbatch", silent=True, err=NO_ANSWER, rc=1, times=1)
    spec = spec_of("true")
    with pytest.raises(Unknown):
        await new().submit(spec)
    fake.sql("update arrays set comment = 'pc:somebody-elses'")
    fake.fault("sacct", acts=False, rc=0)
    with pytest.raises(Unknown):
        await new().find(spec)


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

    monkeypatch.setattr("prefect_campaign.launch.slurm_manifest.durable", full)
    with pytest.raises(Transient):
        await new().submit(spec_of("true"))
    assert fake.calls("sbatch") == []


# -- watching -------------------------------------------------------------------------------------------------------


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
    clock.advance(2)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", None)


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
    assert (seen.status, seen.host) == ("running", "n2")  # a record may still come
    clock.advance(30)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state, seen.host) == ("gone", state, "n2")
    assert seen.oom_killed == (state == "OUT_OF_MEMORY")


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
    assert (await see(launcher, spec, handle)).detail == "waits: Priority"
    fake.sql("update tasks set reason = 'PartitionTimeLimit'")
    seen = await see(launcher, spec, handle)
    assert seen.status == "pending"
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


# -- cancelling -----------------------------------------------------------------------------------------------------


async def test_a_cancellation_that_does_nothing_is_not_believed(fake, new, clock, spec_of, monkeypatch):
    monkeypatch.setattr("prefect_campaign.launch.slurm_cancel._LONGEST_PAUSE", 0.05)
    fake.configure(slots=0)
    fake.fault("scancel", acts=False, rc=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    cancelling = asyncio.create_task(launcher.cancel(spec, handle, grace_seconds=1))
    await wait_until(lambda: fake.calls("scancel"))
    assert not cancelling.done()
    assert (await see(launcher, spec, handle)).status == "pending"
    clock.advance(15)
    await wait_until(lambda: len(fake.calls("scancel")) >= 2)
    clock.advance(60)
    with pytest.raises(Transient):
        await asyncio.wait_for(cancelling, 20)
    fake.heal()
    await launcher.cancel(spec, handle)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", "CANCELLED")


async def test_many_cancellations_are_one_call_of_our_own_ids(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    specs = [spec_of("true", name=f"e{n}") for n in range(100)]
    answer = await launcher.submit_all(specs)
    other = spec_of("true", name="other")
    kept = await launcher.submit(other)
    await asyncio.gather(*(launcher.cancel(spec, answer[spec.token]) for spec in specs[10:60]))
    assert [call[-1] for call in fake.calls("scancel")] == ["101_[10-59]"]
    seen = await launcher.observe([(spec, answer[spec.token]) for spec in specs] + [(other, kept)])
    assert [seen[spec.token].status for spec in specs] == ["pending"] * 10 + ["gone"] * 50 + ["pending"] * 40
    assert seen[other.token].status == "pending"


async def test_cancel_with_a_silent_controller_says_so(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.fault("squeue", acts=False, err=DOWN, rc=1)
    with pytest.raises(CampaignError) as told:
        await launcher.cancel(spec, handle)
    assert isinstance(told.value, Transient)
    assert fake.calls("scancel") == []
