"""The launcher of queues over a scheduler that says what the test wants: looks, notes, memory, cancelling."""

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from contract.launchers import make_spec, see

from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.queue.cancel import Canceller
from prefect_campaign.launch.queue.jobs import Entry, Listing, Said
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.note import Note, read_note, write_note
from prefect_campaign.launch.queue.place import Here
from prefect_campaign.launch.queue.view import QueueView
from prefect_campaign.model.errors import Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle


class Told:
    """A scheduler that gives one answer after the other, the last one for ever."""

    kind = "told"
    marks = True

    def __init__(self, *answers: Entry | None) -> None:
        self.answers = list(answers)
        self.looks = 0
        self.cancelled: list[str] = []

    def files(self, there: AttemptSpec) -> dict[str, str]:
        return {}

    async def submit(self, there: AttemptSpec) -> str:
        return f"{there.exp_id}.told"

    def same(self, one: str, other: str) -> bool:
        return one == other

    async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
        self.looks += 1
        entry = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if entry is None:
            return Listing({}, frozenset(jobs))
        return Listing(dict.fromkeys(jobs, entry))

    async def find(self, token: str, run_dir: str) -> Sequence[Entry]:
        return []

    async def cancel(self, jobs: Mapping[str, str]) -> None:
        self.cancelled += jobs
        self.answers = [Entry("7", "ended", "CANCELLED")]

    async def log(self, job_id: str, token: str, run_dir: str) -> str:
        return ""

    async def check(self) -> None:
        return


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def launcher_of(scheduler: Told, **changes) -> QueueLauncher:
    return QueueLauncher("lab", scheduler, Here("lab"), max_jobs=9, poll_seconds=0.0, **changes)


def claimed(spec: AttemptSpec) -> Path:
    run_dir = Path(spec.run_dir)
    (run_dir / "claim").mkdir(parents=True)
    (run_dir / "claim" / "pid").write_text("1\n")
    return run_dir


HANDLE = Handle("told", "lab", "7")
RUNNING = Entry("7", "running")


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


# -- notes ----------------------------------------------------------------------------------------------------------


async def test_notes_are_written_beside_the_loop_and_only_when_they_change(tmp_path, monkeypatch) -> None:
    written = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        written.append(threading.current_thread())
        fsync(fd)

    spec = make_spec(tmp_path / "e" / "a1", "true")
    claimed(spec)
    write_note(spec, Note(spec.token, "lab", 0.0, "7"))
    monkeypatch.setattr(os, "fsync", recorded)
    launcher = launcher_of(Told(RUNNING, None))
    for _ in range(4):
        await see(launcher, spec, HANDLE)
    assert len(written) == 2  # the file, and its folder
    assert threading.main_thread() not in written


async def test_a_note_that_cannot_be_written_is_kept_in_mind_to_the_end_and_tried_again(tmp_path, monkeypatch) -> None:
    clock, full = Clock(), True
    fsync = os.fsync

    def failing(fd: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        fsync(fd)

    spec = make_spec(tmp_path / "e" / "a1", "true")
    claimed(spec)
    write_note(spec, Note(spec.token, "lab", 0.0, "7"))
    monkeypatch.setattr(os, "fsync", failing)
    launcher = launcher_of(Told(None), clock=clock, steady=clock)
    assert (await see(launcher, spec, HANDLE)).status == "unreachable"
    clock.now += 61
    for _ in range(3):  # whoever asks again after the first word of its end hears the same
        assert (await see(launcher, spec, HANDLE)).status == "gone"
    full = False
    await see(launcher, spec, HANDLE)
    assert json.loads((tmp_path / "e" / "a1" / "submit.json").read_text())["over_since"] == pytest.approx(
        clock.now - 61, abs=5
    )
    assert (await see(launcher_of(Told(None), clock=clock, steady=clock), spec, HANDLE)).status == "gone"


async def test_a_note_that_cannot_be_read_for_a_while_is_not_written_over(tmp_path, monkeypatch) -> None:
    clock, stale = Clock(), True
    opened = Path.open

    def failing(path: Path, *args, **kwargs):
        if stale and path.name == "submit.json":
            raise OSError(116, "Stale file handle")
        return opened(path, *args, **kwargs)

    spec = make_spec(tmp_path / "e" / "a1", "true")
    claimed(spec)
    write_note(spec, Note(spec.token, "lab", 5.0, "7"))
    monkeypatch.setattr(Path, "open", failing)
    launcher = launcher_of(Told(None), clock=clock, steady=clock)
    assert (await see(launcher, spec, HANDLE)).status == "unreachable"
    with pytest.raises(Transient):
        await launcher.submit(spec)
    stale = False
    assert read_note(spec) == Note(spec.token, "lab", 5.0, "7")
    # What was seen meanwhile counts, and is on disk from now on.
    clock.now += 61
    assert (await see(launcher, spec, HANDLE)).status == "gone"
    note = read_note(spec)
    assert (note.job_id, note.asked_at) == ("7", 5.0)
    assert note.over_since == pytest.approx(clock.now - 61, abs=5)


async def test_a_job_whose_note_can_never_be_read_comes_to_an_end_all_the_same(tmp_path, monkeypatch) -> None:
    def failing(path: Path, *args, **kwargs):
        raise OSError(13, "Permission denied")

    clock = Clock()
    spec = make_spec(tmp_path / "e" / "a1", "true")
    monkeypatch.setattr(Path, "open", failing)
    Path(spec.run_dir).mkdir(parents=True)
    launcher = launcher_of(Told(None), clock=clock, steady=clock)
    for status in ("pending", "gone", "gone"):
        assert (await see(launcher, spec, HANDLE)).status == status
        clock.now += 61


# -- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
@pytest.mark.parametrize("answer", [None, Entry("7", "ended", "FAILED")])
async def test_a_jump_of_the_wall_clock_neither_shortens_nor_lengthens_patience(tmp_path, jump, answer) -> None:
    wall, steady = Clock(), Clock()
    spec = make_spec(tmp_path / "e" / "a1", "true")
    claimed(spec)
    write_note(spec, Note(spec.token, "lab", 0.0, "7"))
    launcher = launcher_of(Told(answer), clock=wall, steady=steady)
    first = (await see(launcher, spec, HANDLE)).status
    assert first in ("unreachable", "running")
    wall.now += jump
    assert (await see(launcher, spec, HANDLE)).status == first
    # To a process that comes after a clock was put back, the grace begins anew; it never seems to be over by that.
    again = launcher_of(Told(answer), clock=wall, steady=steady)
    assert (await see(again, spec, HANDLE)).status == (first if jump < 0 else "gone")
    steady.now += 61
    assert (await see(launcher, spec, HANDLE)).status == "gone"


async def test_one_answer_is_one_answer_whatever_the_wall_clock_says(tmp_path) -> None:
    wall, steady = Clock(), Clock()
    spec = make_spec(tmp_path / "e" / "a1", "true")
    claimed(spec)
    scheduler = Told(None)
    launcher = launcher_of(scheduler, clock=wall, steady=steady)
    launcher.poll_seconds = 30.0
    for _ in range(3):
        assert (await see(launcher, spec, HANDLE)).status == "unreachable"
        steady.now += 1
        wall.now += 3600
    assert scheduler.looks == 1


async def test_a_job_that_may_be_on_its_way_is_not_handed_over_again_when_the_wall_clock_jumps(tmp_path) -> None:
    class Mute(Told):
        async def submit(self, there: AttemptSpec) -> str:
            raise Unknown("cut off")

    wall, steady = Clock(), Clock()
    spec = make_spec(tmp_path / "e" / "a1", "true")
    launcher = launcher_of(Mute(None), clock=wall, steady=steady)
    with pytest.raises(Unknown, match="cut off"):
        await launcher.submit(spec)
    wall.now += 3600
    for _ in range(3):
        with pytest.raises(Unknown, match="does not list it yet"):
            await launcher.find(spec)
        with pytest.raises(Unknown, match="a moment ago"):
            await launcher.submit(spec)
    steady.now += 240
    with pytest.raises(Unknown, match="once more"):
        await launcher.find(spec)
    assert await launcher.find(spec) is None


# -- answers that failed --------------------------------------------------------------------------------------------


async def test_that_there_was_no_answer_is_believed_for_a_moment_only(tmp_path) -> None:
    class Failing(Told):
        problem = True

        async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
            found = await super().see(jobs, marks)
            if self.problem:
                raise Transient("lab is away")
            return found

        async def check(self) -> None:
            if self.problem:
                raise Transient("lab is away")

    steady = Clock()
    scheduler = Failing(RUNNING)
    view = QueueView("lab", scheduler, steady)
    assert (await view.reports({"t": "7"}, 600.0))["t"].why == "lab is away"
    steady.now += 14
    assert (await view.reports({"t": "7", "u": "8"}, 600.0))["u"].why == "lab is away"
    assert scheduler.looks == 1
    assert await view.problem(600.0) == "lab is away"
    scheduler.problem = False
    steady.now += 2
    assert (await view.reports({"t": "7"}, 600.0))["t"].entry == RUNNING
    assert await view.problem(600.0) == ""
    steady.now += 599
    assert (await view.reports({"t": "7"}, 600.0))["t"].entry == RUNNING
    assert scheduler.looks == 2


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
