"""The helper process: one answer for each request, whatever becomes of the process."""

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from prefect_campaign.engine.worker import Worker


def worker(monkeypatch: pytest.MonkeyPatch, *, lingers: float = 0, **limits: float) -> Worker:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Worker("talker", str(lingers), **limits)


async def over(pid: int) -> None:
    async with asyncio.timeout(10):
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)


async def test_one_process_answers_one_request_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(monkeypatch)
    answers = await asyncio.gather(*(one.ask({"say": i}) for i in range(5)))
    assert [a["say"] for a in answers] == [0, 1, 2, 3, 4]
    assert len({a["pid"] for a in answers}) == 1
    await one.close()
    await over(answers[0]["pid"])


async def test_an_answer_that_takes_too_long_never_answers_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(monkeypatch, answer_seconds=1.5)
    first = await one.ask({"say": "first"})
    late = await one.ask({"say": "late", "nap": 60})
    assert late == {"problem": "the analysis process gave no answer within 1.5 s"}
    await over(first["pid"])
    following = await one.ask({"say": "following"})
    assert (following["say"], following["pid"] != first["pid"]) == ("following", True)
    await one.close()


async def test_a_request_that_is_given_up_never_answers_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(monkeypatch)
    first = await one.ask({"say": "first"})
    asking = asyncio.create_task(one.ask({"say": "given up", "nap": 0.2}))
    await asyncio.sleep(0.05)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await over(first["pid"])
    assert (await one.ask({"say": "next"}))["say"] == "next"
    await one.close()


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"die": 3}, "ended with code 3"),
        ({"raw": "no JSON"}, "Expecting value"),
        ({"raw": "[1]"}, "answered b'[1]"),
        ({"raw": "x" * (3 << 20)}, "exceed the limit"),
    ],
)
async def test_what_is_no_answer_is_a_problem_and_the_next_request_gets_a_new_process(
    monkeypatch: pytest.MonkeyPatch, request_: dict, problem: str
) -> None:
    one = worker(monkeypatch)
    first = await one.ask({"say": "first"})
    assert problem in (await one.ask(request_))["problem"]
    await over(first["pid"])
    assert (await one.ask({"say": "next"}))["say"] == "next"
    await one.close()


async def test_a_process_that_cannot_be_started_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(monkeypatch)
    monkeypatch.setattr("sys.executable", "/nonexistent")
    gone = Worker("talker", "0")
    assert "nonexistent" in (await gone.ask({}))["problem"]
    await gone.close()
    await one.close()


async def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(monkeypatch, lingers=60, close_seconds=0.1)
    answer = await one.ask({"say": 1})
    async with asyncio.timeout(5):
        await one.close()
    await over(answer["pid"])


async def test_closing_waits_for_a_request_in_the_making_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    patient, hasty = worker(monkeypatch), worker(monkeypatch, close_seconds=0.1)
    for one, nap, expected in ((patient, 0.2, "say"), (hasty, 60, "problem")):
        await one.ask({})
        asking = asyncio.create_task(one.ask({"nap": nap}))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await one.close()
            assert expected in await asking


def test_a_problem_is_told_in_at_most_2000_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_campaign.engine import analyst

    class Setting:
        def view(self, _: str) -> None:
            raise ValueError("x" * 10**6)

    told = analyst._answer(Setting(), {"exp_id": "e", "over": True})["problem"]  # type: ignore[arg-type]
    assert told == "ValueError: " + "x" * (2000 - len("ValueError: "))
