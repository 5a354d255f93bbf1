"""A queue that takes fewer jobs than it was said to: waited for, and not tried again and again."""

import time
from pathlib import Path

import pytest
from contract.engine.lab import tick_until
from contract.engine.waiting_queue import HOST, WaitingQueue, queued, specs_of
from sqlalchemy import update

from prefect_campaign.engine import away, queue_room
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import NoRoom


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.05)


class Full(WaitingQueue):
    """It takes only so many jobs, ended ones among them; of many the last ones."""

    takes = 0

    async def submit_all(self, specs):
        first = max(0, len(specs) - max(0, self.takes - len(self.accepted)))
        answers = await super().submit_all(specs[first:]) if specs[first:] else {}
        return answers | {spec.token: NoRoom("the queue is full") for spec in specs[:first]}


async def test_a_queue_that_takes_no_more_is_waited_for_as_long_as_it_takes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(queue_room, "PAUSE_SECONDS", 0.01)
    lab, queue = queued(tmp_path, 1, policy={"retry_hours": 0.00001, "pilot_retries": 0}), Full()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: len(lab.rows(t.attempts)) >= 2)
        assert {a["signature"] for a in lab.rows(t.attempts)} <= {"queue_full", None}
        queue.takes = 1
        await tick_until(dispatcher, lambda: bool(queue.batches))
        await queue.let_run(*specs_of(queue))
        await tick_until(dispatcher, lambda: lab.states == ["done"])


async def test_a_queue_that_takes_fewer_jobs_than_it_was_said_to_is_tried_only_when_there_is_room(
    tmp_path: Path,
) -> None:
    lab, queue = queued(tmp_path, 12, policy={"max_parallel": None}), Full()
    queue.takes = 4

    def bounced() -> int:
        return sum(a["signature"] == "queue_full" for a in lab.rows(t.attempts))

    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert (len(queue.accepted), bounced()) == (4, 8)
        for ends in ((1, 2), (0, 3, 4)):
            began = time.monotonic()
            await tick_until(dispatcher, lambda began=began: time.monotonic() - began > 2)  # all back-offs are over
            assert bounced() == 8
            await queue.let_run(*(specs_of(queue)[n] for n in ends))
            queue.takes += len(ends)
            await tick_until(dispatcher, lambda: len(queue.accepted) == queue.takes)
            assert bounced() == 8


async def test_what_one_process_was_told_the_next_one_knows(tmp_path: Path) -> None:
    """As of a scheduled monitor, which lives for one tick."""
    lab, queue = queued(tmp_path, 12, policy={"max_parallel": None}), Full()
    queue.takes = 4

    async def tick(later: float) -> int:
        """One process, after the back-offs are over; how many were ever refused."""
        with lab.setting.ledger.write() as connection:
            connection.execute(update(t.experiments).values(retry_at=None))
            ended = t.attempts.c.ended_at
            connection.execute(update(t.attempts).where(ended.is_not(None)).values(ended_at=ended - later))
            connection.execute(update(t.attempts).values(intent_at=t.attempts.c.intent_at - later))
        async with lab.open(Fleet({HOST: queue})) as dispatcher:
            await dispatcher.adopt()
            await dispatcher.tick()
        return sum(a["signature"] == "queue_full" for a in lab.rows(t.attempts))

    assert [await tick(0) for _ in range(3)] == [8, 8, 8]
    assert len(queue.accepted) == 4
    assert [await tick(301), await tick(0), await tick(301), await tick(301)] == [9, 9, 9, 10]
    queue.takes += 1
    assert await tick(1201) == 10
    assert len(queue.accepted) == 5
