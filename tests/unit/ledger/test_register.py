"""Registering a spec and changing it: what is finished stays, what is new is added, nothing is done twice."""

import pytest
from sqlalchemy import update
from unit.ledger.ledger_data import Book, E, register_demo

from prefect_campaign import Stage, Sweep
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import set_status
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.states import CampaignStatus

PILOT = "p1_main_lr1_s0"


def status(book: Book, value: CampaignStatus) -> None:
    with book.ledger.write() as connection:
        set_status(connection, book.row.id, now=1, who="test", why="because", status=value)


def put(book: Book, exp_id: str, state: E) -> None:
    with book.ledger.write() as connection:
        connection.execute(update(t.experiments).where(t.experiments.c.exp_id == exp_id).values(state=state))


def finish(book: Book, exp_id: str) -> None:
    book.end(book.launch(exp_id), values={"objective_value": 1.0})


def test_the_same_plan_twice_changes_nothing(book: Book) -> None:
    before = book.dump()
    again = register_demo(book.ledger)
    assert again.row == book.row
    assert book.dump() == before


def test_the_same_plan_is_picked_up_in_any_state_of_its_experiments(book: Book) -> None:
    finish(book, PILOT)
    before = book.dump()
    register_demo(book.ledger)
    assert book.dump() == before


def test_what_does_not_change_the_plan_is_updated_in_place(book: Book) -> None:
    again = register_demo(book.ledger, tracking={"wandb": "off"})
    assert again.row.spec["tracking"]["wandb"] == "off"
    assert (again.row.id, again.row.plan_hash) == (book.row.id, book.row.plan_hash)
    assert len(book.rows(t.plans)) == 1


def test_a_changed_plan_adds_supersedes_and_keeps(book: Book) -> None:
    finish(book, PILOT)
    again = register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 3, 4]))
    assert again.row.id == book.row.id
    assert again.states() == {
        PILOT: "done",
        "main_lr1_s0": "planned",
        "main_lr3_s0": "planned",
        "main_lr4_s0": "planned",
        "main_lr2_s0": "superseded",
    }
    kinds = [(e["kind"], e["exp_id"]) for e in book.rows(t.events)]
    assert ("replanned", None) in kinds
    assert [p["plan_hash"] for p in book.rows(t.plans)] == [book.row.plan_hash, again.row.plan_hash]
    in_order = [v.exp_id for v in again.views() if v.state != "superseded"]
    assert in_order == [PILOT, "main_lr1_s0", "main_lr3_s0", "main_lr4_s0"]


def test_going_back_to_the_first_plan_takes_the_superseded_ones_back(book: Book) -> None:
    register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 4]))
    back = register_demo(book.ledger)
    assert back.states() == {
        PILOT: "ready",
        "main_lr1_s0": "planned",
        "main_lr2_s0": "planned",
        "main_lr3_s0": "planned",
        "main_lr4_s0": "superseded",
    }
    assert len(book.rows(t.plans)) == 2


def test_what_failed_under_the_old_spec_is_tried_under_the_new_one(book: Book) -> None:
    book.end(book.launch(PILOT), E.FAILED)
    assert register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 4])).states()[PILOT] == "planned"


def test_the_same_id_never_means_other_work(book: Book) -> None:
    finish(book, PILOT)
    before = book.dump()
    with pytest.raises(Refused, match=rf"'{PILOT}' is already done with another command"):
        register_demo(book.ledger, command="false {lr}")
    assert book.dump() == before


@pytest.mark.parametrize("state", [E.LAUNCHING, E.RUNNING])
def test_a_running_experiment_cannot_be_given_another_command(book: Book, state: E) -> None:
    spec = book.intend(PILOT)
    if state == E.RUNNING:
        book.submit(spec)
    before = book.dump()
    with pytest.raises(Refused, match=PILOT):
        register_demo(book.ledger, command="false {lr}")
    assert book.dump() == before


def test_a_waiting_retry_forgets_its_fix_when_the_command_changes(book: Book) -> None:
    book.end(book.launch(PILOT), E.QUEUED, values={"healed": {"attempt": 2, "argv": ["old"]}, "retry_at": 1.0})
    register_demo(book.ledger, command="false {lr}")
    row = next(r for r in book.rows(t.experiments) if r["exp_id"] == PILOT)
    assert row["healed"] is None


@pytest.mark.parametrize("state", [E.LAUNCHING, E.RUNNING])
def test_a_running_experiment_cannot_be_planned_away(book: Book, state: E) -> None:
    put(book, PILOT, state)
    before = book.dump()
    with pytest.raises(Refused, match="is running but the changed spec no longer wants it"):
        register_demo(book.ledger, sweep=Sweep.grid(lr=[7]))
    assert book.dump() == before


def test_a_renamed_stage_takes_its_experiments_along(book: Book) -> None:
    again = register_demo(book.ledger, pilot=[Stage("quick", only={"lr": 1})])
    assert [v.exp_id for v in again.views() if v.stage == "quick"] == [PILOT]
    assert again.row.stage == "quick"


def test_a_killed_round_stays_killed_until_a_new_one_is_asked_for(book: Book) -> None:
    finish(book, PILOT)
    status(book, CampaignStatus.KILLED)
    before = book.dump()
    for changes in ({}, {"sweep": Sweep.grid(lr=[9])}):
        with pytest.raises(Refused, match=r"round 1 was killed \(because\)"):
            register_demo(book.ledger, **changes)
    assert book.dump() == before
    new = register_demo(book.ledger, new_round=True)
    assert (new.row.round, new.row.status) == (2, "open")
    assert set(new.states().values()) == {"planned"}
    assert book.states()[PILOT] == "done"


def test_a_completed_round_is_left_alone_unless_a_new_one_is_asked_for(book: Book) -> None:
    status(book, CampaignStatus.COMPLETED)
    before = book.dump()
    assert register_demo(book.ledger).row.status == "completed"
    assert book.dump() == before
    assert register_demo(book.ledger, new_round=True).row.round == 2


def test_a_completed_round_is_reopened_by_a_changed_plan(book: Book) -> None:
    status(book, CampaignStatus.COMPLETED)
    again = register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 4]))
    assert (again.row.round, again.row.status, again.row.phase) == (1, "open", "pilot")


def test_asking_for_a_new_round_of_an_open_one_goes_on_with_it(book: Book) -> None:
    assert register_demo(book.ledger, new_round=True).row.id == book.row.id


def test_a_pivot_counts_as_the_next_iteration(book: Book) -> None:
    status(book, CampaignStatus.PIVOTED)
    assert register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 4])).row.iteration == 2
    assert register_demo(book.ledger, sweep=Sweep.grid(lr=[1, 5])).row.iteration == 2


def test_a_change_of_status_is_on_record_once(book: Book) -> None:
    status(book, CampaignStatus.AT_GATE)
    before = book.dump()
    status(book, CampaignStatus.AT_GATE)
    assert book.dump() == before
    assert [(e["old"], e["new"]) for e in book.rows(t.events) if e["kind"] == "status"] == [("open", "at_gate")]
