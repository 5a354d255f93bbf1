"""Alerts in Prefect, as far as no server is needed: the text, and that the form offers what the ledger takes."""

import typing

import pytest
from unit.alert_lab import PILOT, ask, launching, settle, tell

from prefect_campaign.engine.setting import Setting
from prefect_campaign.flows.intervene import Choice, intervene
from prefect_campaign.ledger.alert_list import MEANING, recent_alerts
from prefect_campaign.ledger.alerts import ANYWAY, ELSEWHERE, STOP
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused
from prefect_campaign.tasks.alerts import to_markdown


@pytest.fixture
def setting(home: Home) -> Setting:
    return launching()


def text(setting: Setting, form: str = "") -> str:
    with Reader(setting.ledger.url) as reader:
        return to_markdown("demo", recent_alerts(reader, setting.row.id), form)


def test_the_form_offers_what_the_ledger_takes() -> None:
    assert typing.get_args(Choice) == (ANYWAY, ELSEWHERE, STOP)
    assert set(MEANING) == {ANYWAY, ELSEWHERE, STOP}


def test_who_must_answer_gets_choices_with_reasons_and_the_ways_to_answer(setting: Setting) -> None:
    number = ask(setting)
    tell(setting)
    told = text(setting, "http://ui/run?parameters=")
    assert "\x1b" not in told
    assert f"{PILOT} attempt 1 waits" in told
    for choice, meaning in MEANING.items():
        assert f"- **{choice}**: {meaning}." in told
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


@pytest.mark.parametrize(("alert", "problem"), [(1, "asks nothing any more"), (7, "alert 7: there is none")])
async def test_a_form_with_nothing_to_answer_is_refused(setting: Setting, alert: int, problem: str) -> None:
    tell(setting)
    with pytest.raises(Refused, match=problem):
        await intervene.fn(alert, "Stop", "ann")
