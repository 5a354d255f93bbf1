"""Questions and answers: asked once, answered once, bound to the plan that was shown."""

import pytest
from unit.ledger.ledger_data import Book

from prefect_campaign.ledger import gates
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.gates import Question
from prefect_campaign.model.errors import Refused

PILOT = "p1_main_lr1_s0"
OTHER = "f" * 16


def ask(book: Book, plan_hash: str = "", shown: str = "text") -> Question:
    with book.ledger.write() as connection:
        return gates.ask(
            connection,
            book.row.id,
            plan_hash=plan_hash or book.row.plan_hash,
            iteration=1,
            shown=shown,
            cost={"hours": 1},
            now=1.0,
        )


def answer(book: Book, asked: Question, choice: str, **more) -> bool:
    given = {"by": "ada", "reason": "why not", "channel": "cli", "now": 2.0, **more}
    with book.ledger.write() as connection:
        return gates.answer(connection, asked, choice=choice, **given)


def latest(book: Book) -> Question | None:
    with book.ledger.read() as connection:
        return gates.question(connection, book.row.id, book.row.plan_hash)


def approved(book: Book, plan_hash: str = "") -> bool:
    with book.ledger.read() as connection:
        return gates.approved(connection, book.row.id, plan_hash or book.row.plan_hash)


def test_an_open_question_is_asked_once_and_shows_the_latest_text(book: Book) -> None:
    first = ask(book)
    again = ask(book, shown="newer")
    assert again.key == first.key
    assert [(r["shown"], r["try_no"]) for r in book.rows(t.approvals)] == [("newer", 1)]
    assert [e["new"] for e in book.rows(t.events) if e["kind"] == "gate"] == []


@pytest.mark.parametrize("choice", gates.ANSWERS)
def test_an_answer_stays_whatever_comes_later(book: Book, choice: str) -> None:
    asked = ask(book)
    assert answer(book, asked, choice)
    before = book.dump()
    for late in (*gates.ANSWERS, gates.HOLD):
        assert not answer(book, asked, late, by="eve")
    assert book.dump() == before
    assert ask(book, shown="again").answer == choice
    assert book.dump() == before


def test_hold_asks_again_under_a_new_key(book: Book) -> None:
    first = ask(book)
    assert answer(book, first, gates.HOLD, by="")
    second = ask(book)
    assert (second.try_no, second.answer) == (2, None)
    assert second.key != first.key
    assert not answer(book, first, "CONTINUE")  # the old form, resumed late
    assert not approved(book)
    assert answer(book, second, "CONTINUE")
    assert approved(book)


@pytest.mark.parametrize("choice", ["PIVOT", "KILL", "HOLD"])
def test_only_continue_approves(book: Book, choice: str) -> None:
    answer(book, ask(book), choice)
    assert not approved(book)


def test_an_approval_is_bound_to_its_plan(book: Book) -> None:
    answer(book, ask(book), "CONTINUE")
    assert approved(book)
    assert not approved(book, OTHER)
    other = ask(book, OTHER)
    assert other.answer is None
    assert other.key != latest(book).key


def test_an_approval_is_bound_to_its_campaign(book: Book) -> None:
    answer(book, ask(book), "CONTINUE")
    with book.ledger.read() as connection:
        assert not gates.approved(connection, book.row.id + 1, book.row.plan_hash)


def test_who_when_why_and_which_plan_are_on_record(book: Book) -> None:
    answer(book, ask(book), "CONTINUE", by="  ada ", drop=["main_lr2_s0"], budget_hours=3.5)
    found = latest(book)
    assert (found.by, found.reason, found.drop, found.budget_hours) == ("ada", "why not", ["main_lr2_s0"], 3.5)
    event = book.rows(t.events)[-1]
    assert (event["who"], event["new"], event["at"]) == ("ada", "CONTINUE", 2.0)
    assert event["data"]["plan_hash"] == book.row.plan_hash


def test_an_answer_to_an_old_plan_is_refused(book: Book) -> None:
    old = ask(book, OTHER)
    before = book.dump()
    for choice in gates.ANSWERS:
        with pytest.raises(Refused, match=f"the campaign's plan is {book.row.plan_hash} now"):
            answer(book, old, choice)
    assert book.dump() == before


def test_a_pivot_keeps_its_changes(book: Book) -> None:
    answer(book, ask(book), "PIVOT", changes={"lr": 2})
    assert latest(book).changes == {"lr": 2}


@pytest.mark.parametrize(
    ("choice", "more", "problem"),
    [
        ("YES", {}, "choose one of CONTINUE, PIVOT, KILL"),
        ("continue", {}, "choose one of"),
        ("", {}, "choose one of"),
        ("CONTINUE", {"by": ""}, "the name of the person"),
        ("KILL", {"by": "   "}, "the name of the person"),
        ("CONTINUE", {"drop": ["no_such_exp"]}, "'no_such_exp' is no experiment"),
        ("CONTINUE", {"drop": [PILOT]}, f"'{PILOT}' is no experiment of the full phase"),
        ("CONTINUE", {"drop": ["main_lr2_s0", "../x"]}, "'../x' is no experiment"),
        ("CONTINUE", {"changes": {"lr": 2}}, "only a PIVOT changes the plan"),
        ("CONTINUE", {"budget_hours": 0.0}, "budget_hours: 0 is no number of hours"),
        ("CONTINUE", {"budget_hours": float("nan")}, "budget_hours: nan is no number of hours"),
        ("CONTINUE", {"budget_hours": float("inf")}, "budget_hours: inf is no number of hours"),
    ],
)
def test_an_answer_that_does_not_validate_changes_nothing(book: Book, choice: str, more: dict, problem: str) -> None:
    asked = ask(book)
    before = book.dump()
    with pytest.raises(Refused, match=problem):
        answer(book, asked, choice, **more)
    assert book.dump() == before


def test_who_waits_is_remembered(book: Book) -> None:
    asked = ask(book)
    who = gates.Waiting("run-id", "http://127.0.0.1:1/api", "host:1:2.00")
    with book.ledger.write() as connection:
        gates.bind_waiting(connection, asked.id, who)
    with book.ledger.read() as connection:
        assert gates.waiting(connection, asked.id) == who
