"""Waking the flow run that waits at a gate, with a Prefect server that answers as told."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed, Paused, Running, State

from prefect_campaign.ledger.gates import SUSPENDED, Question, Waiting
from prefect_campaign.tasks import waiting

ASKED = Question(1, 1, "0" * 16, 1, 1, "CONTINUE", "ada", "", None, None, None)


class Server:
    """Shows one state after the other, the last for ever, and replies alike to every resumption."""

    def __init__(self, states: list[State], replies: list[str]) -> None:
        self.states = states
        self.replies = replies
        self.forms: list[dict[str, str]] = []

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read_flow_run(self, run_id: object) -> SimpleNamespace:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return SimpleNamespace(id=run_id, state=state)

    async def resume_flow_run(self, run_id: object, run_input: dict[str, str]) -> SimpleNamespace:
        self.forms.append(run_input)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return SimpleNamespace(status=SimpleNamespace(value=reply))


@pytest.fixture
def wake(monkeypatch: pytest.MonkeyPatch):
    async def no_sleep(_: float) -> None:
        pass

    monkeypatch.setattr(waiting.asyncio, "sleep", no_sleep)

    async def call(server: Server, patience: float = 20.0, **more: Any) -> bool:
        monkeypatch.setattr(waiting, "get_client", lambda: server)
        return await waiting.wake(Waiting(str(uuid4()), None, SUSPENDED), ASKED, patience, **more)

    return call


async def test_a_run_that_has_asked_is_waited_for_until_it_pauses(wake) -> None:
    server = Server([Running(), Running(), Paused()], ["ACCEPT"])
    assert await wake(server)
    assert [form["answer"] for form in server.forms] == ["CONTINUE"]


async def test_a_run_whose_form_is_not_there_yet_is_asked_again(wake) -> None:
    """Prefect saves the form after it has paused the run, and rejects what comes between."""
    server = Server([Paused()], ["REJECT", "REJECT", "ACCEPT"])
    assert await wake(server)
    assert len(server.forms) == 3


@pytest.mark.parametrize("states", [[Completed()], [Running()], [Paused(), Running()]])
async def test_a_run_that_does_not_wait_is_not_woken(wake, states: list[State]) -> None:
    assert not await wake(Server(states, ["ABORT"]), patience=0.0)


async def test_a_run_that_found_the_answer_by_itself_needs_no_waking(wake) -> None:
    server = Server([Completed()], ["ABORT"])
    assert await wake(server, gone_on=lambda: True)
    assert not server.forms
