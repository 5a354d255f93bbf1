"""Who may write and who holds what: the dispatcher's lease, its fence, and the devices."""

import pytest
from unit.ledger.ledger_data import Book, E, register_demo

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import acquire, latest_round, release, renew
from prefect_campaign.ledger.experiments import open_stage
from prefect_campaign.ledger.leases import Stale, held
from prefect_campaign.model.errors import Fenced, Transient

PILOT = "p1_main_lr1_s0"
TTL = 30.0


def take(book: Book, owner: str, *, alive: bool = True) -> int:
    with book.ledger.write() as connection:
        return acquire(
            connection,
            book.row.id,
            owner=owner,
            now=book.ledger.clock(),
            ttl=TTL,
            alive=lambda _owner: alive,
            plan_hash=book.row.plan_hash,
        )


def row_of(book: Book):
    with book.ledger.read() as connection:
        return latest_round(connection, book.row.name)


def test_a_second_dispatcher_is_refused_while_the_owner_lives(book: Book) -> None:
    take(book, "one")
    before = book.dump()
    with pytest.raises(Transient, match="another dispatcher is at work \\(one\\)"):
        take(book, "two")
    assert book.dump() == before


def test_the_lease_of_a_dead_owner_is_taken_at_once(book: Book) -> None:
    first = take(book, "one")
    assert take(book, "two", alive=False) > first


def test_an_expired_lease_is_taken_even_from_a_living_owner(book: Book, clock) -> None:
    first = take(book, "one")
    clock.advance(TTL - 1)
    with pytest.raises(Transient):
        take(book, "two")
    clock.advance(2)
    assert take(book, "two") > first


def test_a_renewed_lease_lasts_longer(book: Book, clock) -> None:
    fence = take(book, "one")
    clock.advance(TTL - 1)
    with book.ledger.fenced(book.row.id, fence) as connection:
        renew(connection, book.row.id, now=clock(), ttl=TTL)
    clock.advance(TTL - 1)
    with pytest.raises(Transient):
        take(book, "two")


def test_a_released_lease_is_free_and_fences_still_grow(book: Book) -> None:
    fences = []
    for owner in ("one", "two", "one"):
        fences.append(take(book, owner))
        with book.ledger.fenced(book.row.id, fences[-1]) as connection:
            release(connection, book.row.id)
    assert fences == sorted(set(fences))
    assert row_of(book).owner is None


def test_an_old_fence_writes_nothing(book: Book) -> None:
    old = take(book, "one")
    take(book, "two", alive=False)
    before = book.dump()
    with (
        pytest.raises(Fenced, match="another dispatcher took over"),
        book.ledger.fenced(book.row.id, old) as connection,
    ):
        open_stage(connection, book.row.id, "full", now=0)
    assert book.dump() == before


def test_the_same_process_fences_itself_off_when_it_starts_over(book: Book) -> None:
    old = take(book, "one")
    new = take(book, "one")
    with pytest.raises(Fenced), book.ledger.fenced(book.row.id, old):
        pass
    with book.ledger.fenced(book.row.id, new):
        pass


def test_leases_of_campaigns_do_not_touch_each_other(book: Book) -> None:
    other = register_demo(book.ledger, name="other")
    take(book, "one")
    assert take(other, "two") == 1


def test_one_device_of_a_host_has_one_holder_across_campaigns(book: Book) -> None:
    book.intend(PILOT, device="slot-0")
    other = register_demo(book.ledger, name="other")
    other.open_stage()
    before = book.dump()
    with pytest.raises(Stale, match="meanwhile"):
        other.intend(PILOT, device="slot-0")
    assert book.dump() == before


def test_two_intents_for_one_device_are_refused_together(book: Book) -> None:
    book.open_stage("full")
    book.intend("main_lr1_s0", device="slot-0")
    with pytest.raises(Stale):
        book.intend("main_lr2_s0", device="slot-0")
    assert book.states()["main_lr2_s0"] == "ready"
    book.intend("main_lr2_s0", device="slot-1")
    with book.ledger.read() as connection:
        assert {one.device for one in held(connection, ["here"])} == {"slot-0", "slot-1"}
        assert held(connection, ["elsewhere"]) == []


def test_an_attempt_is_intended_once(book: Book) -> None:
    spec = book.launch(PILOT)
    book.end(spec, E.QUEUED)
    before = book.dump()
    with pytest.raises(Stale):
        book.intend(PILOT, 1, old=E.QUEUED)
    assert book.dump() == before


@pytest.mark.parametrize("new", [E.DONE, E.FAILED, E.QUEUED, E.CANCELLED])
def test_a_device_comes_back_with_the_end_of_its_attempt_only(book: Book, new: E) -> None:
    spec = book.launch(PILOT)
    assert [r["token"] for r in book.rows(t.leases)] == [spec.token]
    book.end(spec, new)
    assert book.rows(t.leases) == []
