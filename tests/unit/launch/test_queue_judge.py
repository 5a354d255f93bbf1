"""What may be said of one job of a queue: silence and a single answer decide nothing."""

from dataclasses import replace

import pytest
from contract.launchers import make_spec

from prefect_campaign.launch.queue.jobs import Entry
from prefect_campaign.launch.queue.judge import Now, Patience, Report, judge
from prefect_campaign.launch.queue.note import Note, read_note, write_note
from prefect_campaign.launch.queue.place import Trace
from prefect_campaign.model.records import Observation

T = 1_000_000.0
PATIENCE = Patience()
NOTE = Note("t", "lab", T - 5000)
KILLED = Trace(Observation("exited", exit_code=143, signal=15), started_at=T - 4000)
SAVED = Trace(Observation("exited", exit_code=0), started_at=T - 4000, stopped=True)


def said(trace: Trace, report: Report, note: Note, now: float) -> tuple[Observation, Note]:
    return judge(trace, report, note, "lab", Now(now, now), PATIENCE)


@pytest.mark.parametrize("trace", [KILLED, SAVED])
def test_the_record_of_a_stopped_job_is_believed_after_two_answers_without_the_job_and_some_time(trace) -> None:
    seen, note = said(trace, Report(absent=True), NOTE, T)
    assert seen.status == "unreachable"
    seen, note = said(trace, Report(absent=True), note, T + 59)
    assert seen.status == "unreachable"
    # The first answer again, an hour later, is no second one.
    seen, note = said(trace, Report(absent=True, age=3600), note, T + 3600)
    assert seen.status == "unreachable"
    seen, note = said(trace, Report(absent=True, age=3), note, T + 64)
    assert (seen.status, seen.exit_code) == ("exited", trace.over.exit_code)


def test_a_job_that_is_listed_in_between_must_be_missed_anew() -> None:
    _, note = said(KILLED, Report(absent=True), NOTE, T)
    seen, note = said(KILLED, Report(Entry("7", "pending")), note, T + 30)
    assert seen.status == "pending"
    seen, note = said(KILLED, Report(absent=True), note, T + 61)
    assert seen.status == "unreachable"
    assert said(KILLED, Report(absent=True), note, T + 122)[0].status == "exited"


def test_silence_is_no_answer() -> None:
    _, note = said(KILLED, Report(absent=True), NOTE, T)
    assert said(KILLED, Report(why="down"), note, T + 9999) == (
        Observation(
            "unreachable", started_at=T - 4000, detail="it was stopped, and lab must say whether for good: down"
        ),
        note,
    )


def test_a_job_without_a_record_is_gone_only_after_two_different_answers() -> None:
    trace = Trace(started_at=T - 4000)
    _, note = said(trace, Report(absent=True), NOTE, T)
    assert said(trace, Report(absent=True, age=600), note, T + 600)[0].status == "unreachable"
    assert said(trace, Report(absent=True), note, T + 600)[0].status == "gone"


def test_a_job_that_runs_tells_since_when_it_is_silent() -> None:
    trace = Trace(started_at=T - 4000, quiet_since=T - 2000)
    assert said(trace, Report(Entry("7", "running")), NOTE, T)[0].quiet_since == T - 2000
    for report in (Report(Entry("7", "ended")), Report(why="down"), Report(Entry("7", "unclear")), Report(absent=True)):
        assert said(trace, report, NOTE, T)[0].quiet_since is None
    assert said(replace(trace, started_at=None), Report(Entry("7", "running")), NOTE, T)[0].quiet_since is None


@pytest.mark.parametrize("asleep", [Entry("7", "running", suspended=True), Entry("7", "pending")])
def test_a_job_that_was_suspended_or_waited_again_is_silent_since_it_went_on_at_most(asleep) -> None:
    trace = Trace(started_at=T - 4000, quiet_since=T - 3600)
    seen, note = said(trace, Report(asleep), NOTE, T)
    assert seen.quiet_since is None
    seen, note = said(trace, Report(Entry("7", "running")), note, T + 60)
    assert seen.quiet_since == T + 60
    seen, again = said(trace, Report(Entry("7", "running")), note, T + 99)
    assert (seen.quiet_since, again) == (T + 60, note)
    assert (
        said(replace(trace, quiet_since=T + 80), Report(Entry("7", "running")), note, T + 99)[0].quiet_since == T + 80
    )


def test_a_note_comes_back_whole_and_one_of_an_older_release_is_read(tmp_path) -> None:
    spec = make_spec(tmp_path, "true", token="t")
    note = Note("t", "lab", 5.0, "7", over_since=6.0, asleep=True, awake_since=7.0)
    write_note(spec, note)
    assert read_note(spec) == note
    (tmp_path / "submit.json").write_text('{"token": "t", "queue": "lab", "asked_at": 5.0, "job_id": "7"}')
    assert read_note(spec) == Note("t", "lab", 5.0, "7")
