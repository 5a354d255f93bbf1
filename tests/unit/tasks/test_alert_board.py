"""Alerts in Prefect, as far as no server is needed: the text, and that the form offers what the ledger takes."""

import asyncio
import typing

import pytest
from unit.alert_lab import PILOT, ask, launching, settle, tell

from prefect_campaign.engine.setting import Setting
from prefect_campaign.flows.intervene import Choice, intervene
from prefect_campaign.ledger.alert_list import MEANING, recent_alerts
from prefect_campaign.ledger.alerts import ANYWAY, ELSEWHERE, SKIP, STOP
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused
from prefect_campaign.tasks import alerts as board_module
from prefect_campaign.tasks.alerts import AlertBoard, to_markdown


@pytest.fixture
def setting(home: Home) -> Setting:
    return launching()


def text(setting: Setting, form: str = "") -> str:
    with Reader(setting.ledger.url) as reader:
        return to_markdown("demo", recent_alerts(reader, setting.row.id), form)


def test_the_form_offers_what_the_ledger_takes() -> None:
    assert typing.get_args(Choice) == (ANYWAY, ELSEWHERE, SKIP, STOP)
    assert set(MEANING) == {ANYWAY, ELSEWHERE, SKIP, STOP}


def test_who_must_answer_gets_choices_with_reasons_and_the_ways_to_answer(setting: Setting) -> None:
    number = ask(setting)
    tell(setting)
    told = text(setting, "http://ui/run?parameters=")
    assert "\x1b" not in told
    assert f"{PILOT} attempt 1 waits" in told
    for choice in (ANYWAY, ELSEWHERE, STOP):
        assert f"- **{choice}**: {MEANING[choice]}." in told
    assert f"`campaign answer {number} 'Continue anyway'`" in told
    assert "(http://ui/run?parameters=%257B%2522alert%2522%253A%25201%257D)" in told
    assert "`campaign up`" not in told
    assert "loss was not finite" in told.split("## Earlier")[1]
    assert "`campaign up` serves a form, intervene/answer" in text(setting)


def test_what_was_done_is_told(setting: Setting) -> None:
    ask(setting)
    settle(setting, "elsewhere")
    assert "Nothing waits for an answer." in text(setting)
    assert "went to another GPU" in text(setting)


async def test_trouble_with_prefect_is_said_once_and_shown_later(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shown: list[str] = []
    broken = [True, True, False, False]

    async def artifact(markdown: str, **_: str) -> None:
        if broken.pop(0):
            raise ConnectionError("no server")
        shown.append(markdown)

    monkeypatch.setattr(board_module, "acreate_markdown_artifact", artifact)
    monkeypatch.setattr(board_module, "_form_url", lambda found: asyncio.sleep(0, ""))
    board = AlertBoard(setting)
    tell(setting)
    await board.try_look()
    assert broken == [True, True, False, False]  # nobody was ever asked: nothing to show
    ask(setting)
    for _ in range(5):
        await board.try_look()
    assert caplog.text.count("could not be shown") == 1
    assert caplog.text.count("To answer: run deployment intervene/answer") == 1
    assert len(shown) == 1
    settle(setting, "start")
    await board.try_look()
    await board.try_look()
    assert [("started" in one) for one in shown] == [False, True]


@pytest.mark.parametrize(("alert", "problem"), [(1, "asks nothing any more"), (7, "alert 7: there is none")])
async def test_a_form_with_nothing_to_answer_is_refused(setting: Setting, alert: int, problem: str) -> None:
    tell(setting)
    with pytest.raises(Refused, match=problem):
        await intervene.fn(alert, "Stop", "ann")
