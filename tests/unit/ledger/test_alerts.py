"""Questions to people: put once, answered by what is offered, closed by what was done or when their object is gone."""

from threading import Barrier, Thread

import pytest
from sqlalchemy.dialects import postgresql
from unit import alert_lab
from unit.alert_lab import MESSAGE, PILOT, answer_on_record, ask, launching, rows, settle, tell

from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import alerts
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.alert_list import alert, recent_alerts, waiting_alerts
from prefect_campaign.ledger.alert_list import alerts as listed
from prefect_campaign.ledger.experiments import Move, Outcome, record_outcomes
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.states import AttemptState, ExperimentState


@pytest.fixture
def setting(home: Home) -> Setting:
    return launching()


def answer(setting: Setting, choice: str, alert_id: int = 1, by: str = "ann") -> str:
    with setting.ledger.write() as connection:
        return alerts.answer(connection, alert_id, choice, by=by, now=1.0, reason="because")


def states(setting: Setting) -> list[tuple[int, str]]:
    with Reader(setting.ledger.url) as reader:
        return [(one.id, one.state) for one in listed(reader)]


def end_attempt(setting: Setting) -> None:
    move = Move(PILOT, ExperimentState.LAUNCHING, ExperimentState.QUEUED, "called off")
    outcome = Outcome("t-demo", AttemptState.CANCELLED, move, 2.0)
    with setting.ledger.write() as connection:
        record_outcomes(connection, setting.row.id, [outcome], now=2.0)


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("Continue anyway", "Continue anyway"),
        ("  CONTINUE   ANYWAY ", "Continue anyway"),
        ("c", "Continue anyway"),
        ("pick", "Pick another GPU"),
        ("2", "Pick another GPU"),
        ("3", "Stop"),
    ],
)
def test_a_choice_by_its_words_their_beginning_or_its_number(setting: Setting, choice: str, meant: str) -> None:
    ask(setting)
    assert answer(setting, choice) == meant
    assert answer_on_record(setting) == (meant, "ann")


@pytest.mark.parametrize("choice", ["", " ", "maybe", "0", "4", "-1", "1.0", "²", "anyway", "Stop it", "%", "9" * 5000])
def test_anything_else_is_refused_with_what_is_offered(setting: Setting, choice: str) -> None:
    ask(setting)
    with pytest.raises(Refused, match=r"choose one of 'Continue anyway' \(1\), 'Pick another GPU' \(2\), 'Stop' \(3\)"):
        answer(setting, choice)
    assert answer_on_record(setting) == (None, None)


def test_an_ambiguous_beginning_is_refused(setting: Setting) -> None:
    with setting.ledger.write() as connection:
        alerts.raise_alert(
            connection, setting.row.id, PILOT, 1, syndrome="x", message="m", choices=("Stop", "Stop all"), now=1.0
        )
    with pytest.raises(Refused, match="'st' may mean 'Stop' or 'Stop all'"):
        answer(setting, "st")
    assert answer(setting, "stop") == "Stop"


def test_the_last_answer_holds_until_it_has_taken_effect(setting: Setting) -> None:
    ask(setting)
    answer(setting, "1")
    answer(setting, "3", by="bob")
    assert answer_on_record(setting) == ("Stop", "bob")
    assert states(setting) == [(1, "answered")]
    settle(setting, "stop")
    with pytest.raises(Refused, match=r"asks nothing any more \(stopped\)"):
        answer(setting, "1")
    assert answer_on_record(setting) == ("Stop", "bob")
    who = [(e["who"], e["new"], e["why"]) for e in _events(setting)]
    assert who == [("ann", "Continue anyway", "because"), ("bob", "Stop", "because")]


def test_no_answer_without_a_name_nor_to_nothing(setting: Setting) -> None:
    ask(setting)
    with pytest.raises(Refused, match="by: the name"):
        answer(setting, "1", by=" ")
    with pytest.raises(Refused, match="alert 2: there is none"):
        answer(setting, "1", alert_id=2)
    tell(setting)
    with pytest.raises(Refused, match="alert 2: asks nothing any more"):
        answer(setting, "1", alert_id=2)
    assert answer_on_record(setting) == (None, None)


def test_a_question_lapses_with_its_attempt(setting: Setting) -> None:
    ask(setting)
    end_attempt(setting)
    assert states(setting) == [(1, "lapsed")]
    with Reader(setting.ledger.url) as reader:
        assert waiting_alerts(reader, setting.row.id) == []
    with pytest.raises(Refused, match=f"attempt 1 of {PILOT} is over"):
        answer(setting, "1")


def test_those_that_wait_come_first_then_the_newest(setting: Setting) -> None:
    ask(setting)
    for attempt in range(1, 40):
        tell(setting, attempt=attempt)
    assert [number for number, _ in states(setting)] == [1, *range(40, 1, -1)]
    with Reader(setting.ledger.url) as reader:
        assert [one.id for one in recent_alerts(reader, setting.row.id)] == [1, *range(40, 20, -1)]
        assert [one.id for one in waiting_alerts(reader, setting.row.id)] == [1]
        assert listed(reader, "other") == []
        one = alert(reader, 1)
        assert (one.campaign, one.message, one.choices[2]) == ("demo", MESSAGE, "Stop")
        for number in (0, -1, 99, 2**63, 10**40):
            with pytest.raises(Refused, match="there is none"):
                alert(reader, number)


def test_raised_by_many_at_once_it_is_there_once(setting: Setting) -> None:
    new: list[bool] = []
    together = Barrier(4)

    def raise_it() -> None:
        ledger = Ledger.open(setting.home)
        together.wait()
        with ledger.write() as connection:
            new.append(
                alerts.raise_alert(
                    connection, setting.row.id, PILOT, 1, syndrome="x", message="m", choices=("Stop",), now=1.0
                )
            )
        ledger.close()

    threads = [Thread(target=raise_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, False, True]
    assert len(rows(setting)) == 1


def test_a_settled_question_is_put_anew_without_its_old_answer(setting: Setting) -> None:
    ask(setting)
    answer(setting, "1")
    ask(setting)  # as it is asked already, the answer stays
    assert answer_on_record(setting) == ("Continue anyway", "ann")
    settle(setting, "start")
    assert ask(setting) == 1
    assert states(setting) == [(1, "open")]
    assert answer_on_record(setting) == (None, None)


def test_postgresql_is_told_to_let_the_first_one_stand() -> None:
    statement = postgresql.insert(t.alerts).values(exp_id="e").on_conflict_do_nothing().returning(t.alerts.c.id)
    assert "ON CONFLICT DO NOTHING RETURNING" in str(statement.compile(dialect=postgresql.dialect()))


def test_an_open_question_is_found_again_after_a_crash(setting: Setting) -> None:
    def since() -> float | None:
        with setting.ledger.read() as connection:
            return alerts.asked_at(connection, setting.row.id, PILOT, 1, syndrome="gpu_busy")

    assert since() is None
    ask(setting)
    assert since() == rows(setting)[0]["created_at"]
    alert_lab.settle(setting, "start")
    assert since() is None


def _events(setting: Setting) -> list[dict[str, str]]:
    with Reader(setting.ledger.url) as reader:
        return reader.rows("SELECT * FROM events WHERE kind = 'alert' ORDER BY id")
