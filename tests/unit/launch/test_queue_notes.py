"""What the launcher of queues remembers of its jobs: notes, the age of what was said, answers that failed."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from contract.launchers import make_spec, see
from told import HANDLE, RUNNING, Clock, Told, claimed, launcher_of

from prefect_campaign.launch.queue.jobs import Entry, Listing
from prefect_campaign.launch.queue.note import Note, read_note, write_note
from prefect_campaign.launch.queue.view import QueueView
from prefect_campaign.model.errors import Transient, Unknown
from prefect_campaign.model.records import AttemptSpec

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


async def test_nothing_is_read_or_written_in_the_event_loop_while_a_job_is_handed_over(tmp_path, monkeypatch) -> None:
    threads = []

    def recorded(real):
        def call(*args, **kwargs):
            threads.append(threading.current_thread())
            return real(*args, **kwargs)

        return call

    spec = make_spec(tmp_path / "e" / "a1", "true")
    for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "open"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name)))
    launcher = launcher_of(Full(None))
    with pytest.raises(Transient):
        await launcher.submit(spec)
    assert await launcher.find(spec) is None
    await launcher_of(Told(None)).submit(spec)
    assert len(threads) > 6
    assert threading.main_thread() not in threads


class Full(Told):
    async def submit(self, there: AttemptSpec) -> str:
        raise Transient("no room")


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
