"""How many jobs a queue is handed that said that it is full."""

from conftest import FakeClock

from prefect_campaign.engine.queue_room import LONGEST_SECONDS, PAUSE_SECONDS, QueueRoom


def test_all_slots_until_it_is_full_then_as_many_as_it_has(clock: FakeClock) -> None:
    room = QueueRoom(clock)
    assert room.of(100) == 100
    room.full(7)
    assert room.of(100) == 7
    clock.advance(PAUSE_SECONDS - 1)
    assert (room.of(100), room.of(5)) == (7, 5)


def test_after_a_pause_more_and_more_are_tried_up_to_all(clock: FakeClock) -> None:
    room = QueueRoom(clock)
    room.full(7)
    found = []
    for _ in range(5):
        clock.advance(PAUSE_SECONDS)
        found.append(room.of(30))
    assert found == [8, 10, 14, 22, 30]
    clock.now = 0.0
    assert room.of(30) == 30


def test_a_try_in_vain_makes_the_pause_longer_and_one_that_was_not_makes_it_short_again(clock: FakeClock) -> None:
    room = QueueRoom(clock)
    room.full(0)
    tries = []
    for _ in range(6):
        since = clock.now
        while not room.of(100):
            clock.advance(1)
        tries.append(clock.now - since)
        room.full(0)
    assert tries == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS, *[LONGEST_SECONDS] * 3]
    room.full(3)
    clock.advance(PAUSE_SECONDS)
    assert room.of(100) == 4


def test_months_later_it_is_still_a_number(clock: FakeClock) -> None:
    room = QueueRoom(clock)
    room.full(0)
    clock.advance(10**10)
    assert room.of(100) == 100
