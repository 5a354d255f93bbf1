"""What watching writes: curves that stay bounded, alerts and artifacts that are listed once."""

import math

import pytest
from unit.ledger.ledger_data import Book

from prefect_campaign.ledger import queries
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.alerts import add_alert
from prefect_campaign.ledger.observations import CURVE_POINTS, Reading, add_artifacts, add_metrics
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import MetricRow

PILOT = "p1_main_lr1_s0"


def add(book: Book, rows: list[MetricRow], cursors: dict | None = None, attempt: int = 1) -> None:
    with book.ledger.write() as connection:
        token = f"t-{PILOT}-a{attempt}"
        add_metrics(connection, book.row.id, [Reading(PILOT, attempt, token, rows, cursors or {})])


def stored(book: Book, name: str = "loss") -> dict:
    return next(r for r in book.rows(t.metrics) if r["name"] == name)


def test_rows_are_appended_and_the_last_value_kept(book: Book) -> None:
    book.launch(PILOT)
    add(book, [MetricRow({"loss": 2.0, "acc": 0.1}, 0), MetricRow({"loss": 1.0}, 1)])
    add(book, [MetricRow({"loss": 0.5}, 2)])
    assert stored(book)["curve"] == [[0, 2.0], [1, 1.0], [2, 0.5]]
    assert next(v for v in book.views() if v.exp_id == PILOT).metrics == {"loss": 0.5, "acc": 0.1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_kept_as_such(book: Book, bad: float) -> None:
    book.launch(PILOT)
    add(book, [MetricRow({"loss": 1.0}, 0), MetricRow({"loss": bad}, 1)])
    assert stored(book)["curve"] == [[0, 1.0], [1, None]]
    assert math.isnan(next(v for v in book.views() if v.exp_id == PILOT).metrics["loss"])
    with Reader(book.ledger.url) as reader:
        assert math.isnan(queries.curves(reader, book.row.id)[PILOT][1].values["loss"])


@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_a_long_curve_stays_bounded_and_keeps_its_ends_and_order(book: Book, batch: int) -> None:
    book.launch(PILOT)
    total = 5000 if batch > 1 else 2 * CURVE_POINTS + 50
    steps = list(range(total))
    size = batch if batch > 1 else 25
    for start in range(0, total, size):
        add(book, [MetricRow({"loss": float(-s)}, s) for s in steps[start : start + size]])
    curve = stored(book)["curve"]
    assert CURVE_POINTS / 2 <= len(curve) <= 2 * CURVE_POINTS
    assert (curve[0], curve[-1]) == ([0, 0.0], [total - 1, float(-(total - 1))])
    assert [p[0] for p in curve] == sorted({p[0] for p in curve})
    assert all(value == -step for step, value in curve)
    assert stored(book)["last"] == float(-(total - 1))


def test_attempts_have_curves_of_their_own(book: Book) -> None:
    spec = book.launch(PILOT)
    add(book, [MetricRow({"loss": 9.0}, 0)])
    from unit.ledger.ledger_data import E

    book.end(spec, E.QUEUED)
    book.launch(PILOT, 2, old=E.QUEUED)
    assert next(v for v in book.views() if v.exp_id == PILOT).metrics == {}
    add(book, [MetricRow({"loss": 1.0}, 0)], attempt=2)
    assert next(v for v in book.views() if v.exp_id == PILOT).metrics == {"loss": 1.0}


def test_rows_and_read_position_are_kept_together(book: Book) -> None:
    spec = book.launch(PILOT)
    add(book, [MetricRow({"loss": 9.0}, 0)], {"metrics.jsonl": {"offset": 7}})
    assert book.attempts()[spec.token]["cursors"] == {"metrics.jsonl": {"offset": 7}}
    add(book, [], {"metrics.jsonl": {"offset": 9}})
    assert book.attempts()[spec.token]["cursors"] == {"metrics.jsonl": {"offset": 9}}


def test_odd_metric_names_are_only_names(book: Book) -> None:
    book.launch(PILOT)
    names = ["final/accuracy", "a b", "'; DROP TABLE metrics; --", "ü", ":x", "%(y)s", "_token"]
    add(book, [MetricRow(dict.fromkeys(names, 1.0), 0)])
    assert {r["name"] for r in book.rows(t.metrics)} == set(names)


def alert(book: Book, syndrome: str, attempt: int = 1) -> bool:
    with book.ledger.write() as connection:
        return add_alert(
            connection,
            book.row.id,
            PILOT,
            attempt,
            severity="critical",
            syndrome=syndrome,
            message="m",
            choices=[],
            effect=None,
            created_at=1.0,
        )


def test_an_alert_is_raised_once_per_attempt_and_syndrome(book: Book) -> None:
    assert alert(book, "nan_inf_loss")
    assert not alert(book, "nan_inf_loss")
    assert alert(book, "nan_inf_loss", attempt=2)
    assert alert(book, "hang")
    assert len(book.rows(t.alerts)) == 3


def test_artifacts_are_listed_once(book: Book) -> None:
    for _ in range(2):
        with book.ledger.write() as connection:
            add_artifacts(
                connection, book.row.id, [("plot", "p", "/p"), ("plot", "p", "/p"), ("r", "q", "/q")], now=1.0
            )
    assert [r["path"] for r in book.rows(t.artifacts)] == ["/p", "/q"]
