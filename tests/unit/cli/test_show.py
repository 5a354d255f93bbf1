"""`campaign status` without a name: all campaigns, and what each of them waits for."""

import pytest
from unit.gate_lab import asked

from prefect_campaign.cli.show import show_status
from prefect_campaign.engine.setting import Setting


def told(capsys: pytest.CaptureFixture[str]) -> str:
    show_status("", as_json=False)
    return " ".join(capsys.readouterr().out.split())


def test_an_open_campaign_that_nobody_drives_says_how_to_go_on(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys).endswith("0/1 nobody drives it now: `campaign resume demo`")


def test_a_question_at_the_gate_is_told(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    asked(setting)
    assert told(capsys).endswith("0/1 waits for `campaign approve demo`")


def test_a_completed_campaign_waits_for_nothing(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    asked(setting, answer="KILL")
    setting.change(status="killed", reason="no [gain] in it")
    assert told(capsys).endswith("killed minimal 0/1 no [gain] in it")
