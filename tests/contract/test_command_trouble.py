"""The command launcher when something goes wrong."""

import json
import time
from pathlib import Path

import pytest
from acme_rig import Acme, description
from contract.launchers import PATIENCE, make_spec, see, wait_until

from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.note import read_note
from prefect_campaign.launch.queue.place import Here
from prefect_campaign.model.errors import Refused, Transient, Unknown


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acme:
    made = Acme(tmp_path / "acme")
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_launcher(acme: Acme, clock: Clock):
    made = []

    def make(**changes) -> QueueLauncher:
        place = Here("acme")
        scheduler = CommandScheduler("acme", description(**changes), place.run)
        options = {"max_jobs": 9, "poll_seconds": 0.0, "patience": Patience(unlisted=300), "clock": clock}
        made.append(QueueLauncher("acme", scheduler, place, **options))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path):
    def build(*argv: str, name: str = "e", **changes):
        return make_spec(tmp_path / "runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", **changes)

    return build


async def test_every_field_arrives_as_one_argument(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true", gpu_count=2, cpus=8, memory_mb=4096, wall_minutes=90)
    await new_launcher(fields={"pool": "a b; $HOME"}, image="it's an image").submit(spec)
    words = (acme.folder / "tasks" / "t-00001" / "options").read_text().split("\n")
    assert words == [
        "--title=pc-test-e-a1", "--gpus=2", "--cores=8", "--ram=4096", "--for=01:30:00", "--image=it's an image",
        "--mount=data", "--mount=home dirs", "--pool=a b; $HOME", "--", "/bin/sh", f"{spec.run_dir}/job.sh",
    ]  # fmt: skip


async def test_an_answer_that_is_lost_is_made_good_by_the_name(acme, new_launcher, spec_of):
    acme.fail("lost")
    acme.fail("stopped")
    spec = spec_of("true")
    handle = await new_launcher().submit(spec)
    assert handle.job_id == "t-00001"
    assert acme.tasks() == ["t-00001"]
    assert await new_launcher().find(spec) == handle


async def test_of_two_jobs_with_one_name_none_is_cancelled_since_one_may_be_of_another_home(
    acme, new_launcher, spec_of
):
    acme.fail("stopped")
    spec = spec_of("true")
    for _ in range(2):
        await new_launcher().submit(spec)
        (Path(spec.run_dir) / "submit.json").unlink()
    with pytest.raises(Unknown, match="cancel all but one by hand"):
        await new_launcher().find(spec)
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


async def test_an_id_that_is_another_jobs_by_now_is_left_alone(acme, new_launcher, spec_of):
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    task = acme.folder / "tasks" / handle.job_id
    (task / "title").write_text("theirs")
    await launcher.cancel(spec, handle)
    assert (task / "phase").read_text() == "Waiting"


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


async def test_jobs_that_go_by_their_name(acme, new_launcher, spec_of):
    """A platform that takes a name for an id; here the list is all that shows it."""
    by_name = {
        "id_pattern": "",
        "job_pattern": r"^t-\d+ +(?P<state>\w+) +(?P<node>\S+) +(?P<name>\S+)$",
        "cancel": "acme stop {names}",
        "logs": (),
    }
    acme.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher(**by_name)
    handle = await launcher.submit(spec)
    assert handle.job_id == spec.token
    assert (await see(launcher, spec, handle)).status == "pending"
    assert json.loads((Path(spec.run_dir) / "submit.json").read_text())["job_id"] == spec.token


async def test_many_are_seen_in_one_call(acme, new_launcher, spec_of):
    acme.fail("stopped")
    launcher = new_launcher()
    specs = [spec_of("true", name=f"e{n}") for n in range(20)]
    answers = await launcher.submit_all(specs)
    before = acme.looks()
    seen = await launcher.observe([(spec, answers[spec.token]) for spec in specs])
    assert {one.status for one in seen.values()} == {"pending"}
    assert acme.looks() == before + 1
