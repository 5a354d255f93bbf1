"""Which rounds a monitor tick has to look at."""

from unit.ledger.ledger_data import Book, E, register_demo

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.campaigns import set_status
from prefect_campaign.ledger.reading import Reader

PILOT = "p1_main_lr1_s0"


def close(book: Book, status: str) -> None:
    with book.ledger.write() as connection:
        set_status(connection, book.row.id, now=book.ledger.clock(), who="test", status=status)


def tended(book: Book) -> list[tuple[str, int]]:
    with Reader(book.ledger.url) as reader:
        return [(r["name"], r["round"]) for r in queries.open_campaigns(reader)]


def test_a_round_is_tended_while_it_is_open_or_has_attempts_that_are_not_over(book: Book) -> None:
    spec = book.launch(PILOT)
    assert tended(book) == [("demo", 1)]
    close(book, "completed")
    assert tended(book) == [("demo", 1)]  # its job still runs
    newer = register_demo(book.ledger, new_round=True)
    assert tended(book) == [("demo", 2), ("demo", 1)]
    book.end(spec, E.FAILED)
    assert tended(book) == [("demo", 2)]
    close(newer, "killed")
    assert tended(book) == []


def test_an_intent_alone_is_reason_enough(book: Book) -> None:
    book.intend(PILOT)
    close(book, "killed")
    assert tended(book) == [("demo", 1)]
