"""Which number means which GPU as cards vanish, come back and are replaced."""

import pytest

from prefect_campaign.launch.gpus.numbers import Numbers, numbered
from prefect_campaign.model.devices import Card, Gpu

A, B, C, X, Y = "GPU-a", "GPU-b", "GPU-c", "GPU-x", "GPU-y"
LOST = "unreadable-0"


def gpus(*uuids: str) -> list[Gpu]:
    return [Gpu(uuid, index, "RTX", 1000) for index, uuid in enumerate(uuids)]


def cards(**numbers: int) -> list[Card]:
    found = [Card(f"GPU-{name}", number, "RTX", 1000) for name, number in numbers.items()]
    return sorted(found, key=lambda card: card.number)


@pytest.mark.parametrize(
    ("known", "now", "whole", "after"),
    [
        ([], gpus(A, B), True, cards(a=0, b=1)),
        (cards(a=0, b=1, c=2), gpus(B, C), True, cards(a=0, b=1, c=2)),
        # A card in the place of one that is gone takes over its number; one beside them all gets the next.
        (cards(a=0, b=1), gpus(A, X), True, cards(a=0, x=1)),
        (cards(a=0, b=1), gpus(X, A, B), True, cards(a=0, b=1, x=2)),
        (cards(a=0, b=1, c=2), gpus(B, C, X), True, cards(x=0, b=1, c=2)),
        # Other cards altogether: another machine has the name now.
        (cards(a=0, b=1), gpus(X, Y), True, cards(x=0, y=1)),
        # Not all was read: those that are missing may be there.
        (cards(a=0, b=1), gpus(X), False, cards(a=0, b=1, x=2)),
        ([], [*gpus(LOST, B)], True, cards(b=1)),
    ],
)
def test_numbers_after_a_look(known: list[Card], now: list[Gpu], whole: bool, after: list[Card]) -> None:
    assert numbered(known, now, whole=whole) == after


def test_a_card_that_is_gone_is_shown_with_what_to_do() -> None:
    numbers = Numbers()
    numbers.on("h1", gpus(A, B, C), whole=True)
    left = numbers.on("h1", gpus(B, C), whole=True)
    assert [(g.uuid, g.index, g.named) for g in left] == [(B, 0, 1), (C, 1, 2), (A, 0, 0)]
    assert [bool(g.problem) for g in left] == [False, False, True]
    assert "campaign gpus --forget GPU-a" in left[-1].problem
    assert [g.problem for g in numbers.on("h1", gpus(A, B, C), whole=True)] == [""] * 3


@pytest.mark.parametrize(("now", "whole"), [(gpus(B), False), (gpus(LOST, B), True), ([], False)])
def test_none_is_called_gone_while_something_cannot_be_read(now: list[Gpu], whole: bool) -> None:
    numbers = Numbers()
    numbers.on("h1", gpus(A, B), whole=True)
    assert [g.uuid for g in numbers.on("h1", now, whole=whole)] == [g.uuid for g in now]


def test_the_hosts_do_not_share_their_numbers() -> None:
    numbers = Numbers()
    numbers.on("h1", gpus(A, B), whole=True)
    assert [g.number for g in numbers.on("h2", gpus(B), whole=True)] == [0]
