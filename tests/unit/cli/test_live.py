"""The terminal's watcher: answers the question of the run it watches, once, and no other."""

import math
import threading
import time
from typing import Any

import pytest

from prefect_campaign.cli import live
from prefect_campaign.cli.live import Watcher
from prefect_campaign.engine.process import own_identity
from prefect_campaign.engine.setting import Setting, register
from prefect_campaign.ledger import gates
from prefect_campaign.ledger.gates import Waiting
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Transient

RUN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.02)


def ask(setting: Setting, waiter: str, run: str | None = None) -> gates.Question:
    setting.change(status="at_gate")
    with setting.ledger.write() as connection:
        one = gates.ask(
            connection, setting.row.id, plan_hash=setting.plan.plan_hash, iteration=1, shown="SHOWN", cost={}, now=1.0
        )
        gates.bind_waiting(connection, one.id, Waiting(run, None, waiter))
    return one


def answer_of(setting: Setting) -> str | None:
    with setting.ledger.read() as connection:
        found = gates.question(connection, setting.row.id, setting.plan.plan_hash)
    return found.answer if found else None


class Counting(Watcher):
    """Counts how often it has looked."""

    looks = 0

    def _step(self, reader: Reader) -> dict[str, Any]:
        row = super()._step(reader)
        self.looks += 1
        return row


def watched(setting: Setting, *, looks: float = math.inf, run: str | None = None) -> str | None:
    """The answer that a watcher with --approve gives, if it gives one while it looks so many times."""
    watcher = Counting(setting.home, "demo", "http://127.0.0.1:9/api", approve="CONTINUE", by="ann", reason="")
    watcher._flow_run_id = run
    thread = threading.Thread(target=watcher.run)
    thread.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and watcher.looks < looks and not answer_of(setting):
        time.sleep(0.01)
    watcher.stop()
    thread.join()
    return answer_of(setting)


def test_the_question_of_its_own_process_is_answered(setting: Setting) -> None:
    ask(setting, own_identity())
    assert watched(setting) == "CONTINUE"


def test_the_question_of_the_run_it_follows_is_answered(setting: Setting) -> None:
    ask(setting, own_identity() + "1", RUN)  # gone: nobody has to be woken
    assert watched(setting, run=RUN) == "CONTINUE"


@pytest.mark.parametrize(
    ("waiter", "run"), [("elsewhere:1:boot.1", None), (gates.SUSPENDED, "another run"), (gates.SUSPENDED, None)]
)
def test_the_questions_of_others_are_left_alone(setting: Setting, waiter: str, run: str | None) -> None:
    ask(setting, waiter, run)
    assert watched(setting, looks=3) is None
    assert watched(setting, looks=3, run=RUN) is None


def test_a_question_about_an_old_plan_is_left_alone(setting: Setting) -> None:
    ask(setting, own_identity())
    register(setting.campaign.model_copy(update={"args": {"extra": 1}}))
    setting.change(status="at_gate")
    assert watched(setting, looks=3) is None


def test_an_answer_that_could_not_be_written_is_given_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(setting, own_identity())
    write, tries = gates.answer, []

    def locked_once(*args: Any, **more: Any) -> bool:
        tries.append(1)
        if len(tries) == 1:
            raise Transient("ledger: locked")
        return write(*args, **more)

    monkeypatch.setattr(gates, "answer", locked_once)
    assert watched(setting) == "CONTINUE"
    assert "ledger: locked; trying again" in capsys.readouterr().err


def test_a_fault_of_the_display_is_said_once_and_does_not_end_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(setting, own_identity())
    broken = Watcher._show_until
    times = []

    def faulty(self: Watcher, ended: Any) -> None:
        times.append(1)
        if len(times) < 4:
            raise RuntimeError("no such column")
        broken(self, ended)

    monkeypatch.setattr(Watcher, "_show_until", faulty)
    assert watched(setting) == "CONTINUE"
    assert capsys.readouterr().err.count("display: no such column; trying again") == 1
