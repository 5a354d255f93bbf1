"""Guarded transitions: compare and swap, final is final, all or none."""

import pytest
from sqlalchemy import update
from unit.ledger.ledger_data import Book, E, attempt_of, register_demo

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.experiments import Move, move, open_stage, reopen
from prefect_campaign.ledger.leases import Stale
from prefect_campaign.ledger.observations import note_experiment
from prefect_campaign.model.states import FINAL, TRANSITIONS, AttemptState

PILOT = "p1_main_lr1_s0"
FULL = ["main_lr1_s0", "main_lr2_s0", "main_lr3_s0"]


def put(book: Book, exp_id: str, state: E) -> None:
    """Set a state behind the ledger's back."""
    with book.ledger.write() as connection:
        connection.execute(update(t.experiments).where(t.experiments.c.exp_id == exp_id).values(state=state))


def test_opening_a_stage_makes_its_experiments_ready_once(book: Book) -> None:
    assert book.states() == {PILOT: "ready", **dict.fromkeys(FULL, "planned")}
    before = book.dump()
    book.open_stage()
    assert book.dump() == before


def test_an_end_of_which_the_beginning_is_not_known_keeps_the_one_on_record(book: Book) -> None:
    spec, began = book.launch(PILOT), book.ledger.clock()
    book.end(spec)
    (attempt,) = book.rows(t.attempts)
    assert attempt["started_at"] == began
    assert attempt["state"] == "done"


def test_the_whole_way_is_on_record(book: Book) -> None:
    spec = book.launch(PILOT)
    book.end(spec, values={"objective_value": 0.5})
    assert [(e["old"], e["new"], e["who"]) for e in book.rows(t.events) if e["exp_id"] == PILOT] == [
        ("planned", "ready", "campaign"),
        ("ready", "launching", "dispatcher"),
        ("launching", "running", "dispatcher"),
        ("running", "done", "dispatcher"),
    ]
    view = next(v for v in book.views() if v.exp_id == PILOT)
    assert (view.state, view.attempt, view.objective_value, view.job_id) == ("done", 1, 0.5, "1")
    assert book.attempts()[spec.token]["state"] == AttemptState.DONE
    assert book.rows(t.leases) == []


@pytest.mark.parametrize(("old", "new"), [(o, n) for o in E for n in E if n not in TRANSITIONS[o]])
def test_a_transition_that_the_table_lacks_is_refused(book: Book, old: E, new: E) -> None:
    put(book, PILOT, old)
    before = book.dump()
    with pytest.raises(ValueError, match="no transition"):
        book.move(PILOT, old, new)
    assert book.dump() == before


@pytest.mark.parametrize("now", list(E))
def test_a_stale_move_changes_nothing(book: Book, now: E) -> None:
    believed = E.LAUNCHING if now != E.LAUNCHING else E.RUNNING
    put(book, PILOT, now)
    before = book.dump()
    with pytest.raises(Stale):
        book.move(PILOT, believed, E.DONE)
    assert book.dump() == before


def test_moves_are_all_or_none(book: Book) -> None:
    before = book.dump()
    moves = [Move(FULL[0], E.PLANNED, E.READY), Move(FULL[1], E.READY, E.QUEUED), Move(FULL[2], E.PLANNED, E.READY)]
    with pytest.raises(Stale, match="1 of 3"), book.ledger.write() as connection:
        move(connection, book.row.id, moves, now=0, who="test")
    assert book.dump() == before


def test_moves_with_different_columns_go_together(book: Book) -> None:
    moves = [
        Move(FULL[0], E.PLANNED, E.READY, values={"notes": "a"}),
        Move(FULL[1], E.PLANNED, E.CANCELLED, "dropped"),
    ]
    with book.ledger.write() as connection:
        move(connection, book.row.id, moves, now=1, who="test")
    views = {v.exp_id: v for v in book.views()}
    assert (views[FULL[0]].state, views[FULL[0]].notes) == ("ready", "a")
    assert (views[FULL[1]].state, views[FULL[1]].reason, views[FULL[1]].updated_at) == ("cancelled", "dropped", 1)


def test_the_same_exp_id_of_another_campaign_is_not_touched(book: Book) -> None:
    other = register_demo(book.ledger, name="other")
    book.move(PILOT, E.READY, E.CANCELLED)
    assert other.states()[PILOT] == "planned"


def test_a_late_outcome_cannot_revive_a_cancelled_experiment(book: Book) -> None:
    spec = book.launch(PILOT)
    book.end(spec, E.CANCELLED)
    before = book.dump()
    for new in (E.DONE, E.FAILED, E.QUEUED):
        with pytest.raises(Stale):
            book.end(spec, new)
    assert book.dump() == before


def test_a_late_outcome_of_the_first_attempt_does_not_end_the_second(book: Book) -> None:
    first = book.launch(PILOT)
    book.end(first, E.QUEUED)
    book.launch(PILOT, 2, old=E.QUEUED)
    before = book.dump()
    with pytest.raises(Stale):
        book.end(first, E.DONE)
    assert book.dump() == before


def test_a_late_submission_does_not_revive_a_closed_attempt(book: Book) -> None:
    first = book.launch(PILOT)
    book.end(first, E.QUEUED)
    book.intend(PILOT, 2, old=E.QUEUED)
    before = book.dump()
    with pytest.raises(Stale):
        book.submit(first)
    assert book.dump() == before


@pytest.mark.parametrize("final", sorted(FINAL))
def test_nothing_observed_leads_out_of_a_final_state(book: Book, final: E) -> None:
    put(book, PILOT, final)
    before = book.dump()
    for new in E:
        with pytest.raises((ValueError, Stale)):
            book.move(PILOT, final, new)
        with pytest.raises((ValueError, Stale)):
            book.move(PILOT, E.RUNNING, new)
    with pytest.raises(Stale):
        book.intend(PILOT, 2, old=E.READY)
    assert book.dump() == before


def test_notes_never_change_the_state(book: Book) -> None:
    with book.ledger.write() as connection:
        note_experiment(connection, book.row.id, PILOT, notes="hello")
        for column in ("state", "attempt"):
            with pytest.raises(ValueError, match="transitions only"):
                note_experiment(connection, book.row.id, PILOT, **{column: "done"})
    assert book.states()[PILOT] == "ready"


def test_only_failed_held_and_superseded_points_are_reopened_and_that_is_on_record(book: Book) -> None:
    for exp_id, state in zip([PILOT, *FULL], (E.FAILED, E.SUPERSEDED, E.ON_HOLD, E.CANCELLED), strict=True):
        put(book, exp_id, state)
    with book.ledger.write() as connection:
        reopen(connection, book.row.id, [PILOT, *FULL], now=5, who="ada", why="again")
    assert book.states() == dict(zip([PILOT, *FULL], ("planned", "planned", "planned", "cancelled"), strict=True))
    found = [(e["exp_id"], e["who"], e["why"]) for e in book.rows(t.events) if e["kind"] == "reopened"]
    assert sorted(found) == sorted((e, "ada", "again") for e in (PILOT, *FULL[:2]))


def test_a_reopened_point_waits_until_its_stage_is_opened_again(book: Book) -> None:
    book.end(book.launch(PILOT), E.FAILED)
    with book.ledger.write() as connection:
        reopen(connection, book.row.id, [PILOT], now=5, who="ada", why="again")
    assert book.states()[PILOT] == "planned"
    book.open_stage()
    assert book.states()[PILOT] == "ready"


def test_a_reopened_point_starts_over_unhealed_under_a_new_attempt_number(book: Book) -> None:
    spec = book.launch(PILOT)
    book.end(spec, E.QUEUED, values={"healed": {"attempt": 2}, "comparable": False, "changes": ["lr"], "retry_at": 9.0})
    second = book.launch(PILOT, 2, old=E.QUEUED)
    book.end(second, E.FAILED)
    with book.ledger.write() as connection:
        reopen(connection, book.row.id, [PILOT], now=5, who="ada", why="again")
    row = next(r for r in book.rows(t.experiments) if r["exp_id"] == PILOT)
    assert (row["healed"], row["comparable"], row["changes"], row["retry_at"], row["attempt"]) == (
        None,
        True,
        [],
        None,
        2,
    )
    assert set(book.attempts()) == {spec.token, second.token}


def test_an_unknown_stage_opens_nothing(book: Book) -> None:
    before = book.dump()
    with book.ledger.write() as connection:
        open_stage(connection, book.row.id, "no such stage", now=0)
        open_stage(connection, 999, "full", now=0)
    assert book.dump() == before


def test_an_attempt_is_found_by_its_token_after_a_crash(book: Book) -> None:
    spec = book.intend(PILOT)
    assert book.open_attempts() == [attempt_of(PILOT, 1).token]
    row = book.attempts()[spec.token]
    assert (row["state"], row["handle"], row["device"]) == ("launching", None, "slot-0")
