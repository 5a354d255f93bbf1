"""Answers from the command line: recorded once, bound to the plan, and given to the run that waits."""

from typing import Any

import pytest
from unit.gate_lab import asked, on_record

from prefect_campaign.cli.approve import answer_gate
from prefect_campaign.engine.process import own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import gates
from prefect_campaign.model.errors import Refused


def approve(choice: str = "CONTINUE", **more: Any) -> str:
    return answer_gate("demo", choice, **{"by": "ann", "reason": "good", **more})


def test_without_a_question_there_is_nothing_to_answer(setting: Setting) -> None:
    with pytest.raises(Refused, match="asks nothing now"):
        approve()
    with pytest.raises(Refused, match="'nobody': not in the ledger"):
        answer_gate("nobody", "KILL", by="ann", reason="")


@pytest.mark.parametrize("choice", ["MAYBE", "", "HOLD", "continue"])
def test_only_a_choice_is_an_answer(setting: Setting, choice: str) -> None:
    asked(setting)
    with pytest.raises(Refused, match="choose one of CONTINUE, PIVOT, KILL"):
        approve(choice)
    assert on_record(setting) == (None, None)


def test_an_answer_nobody_waits_for_says_how_to_go_on(setting: Setting) -> None:
    asked(setting)
    assert "go on with `campaign resume demo`" in approve()
    assert on_record(setting) == ("CONTINUE", "ann")


def test_the_dead_are_not_woken(setting: Setting) -> None:
    asked(setting, own_identity() + "1", "http://127.0.0.1:9/api")
    assert "no flow run waits for it" in approve()


@pytest.mark.parametrize("alive", [gates.SUSPENDED, None])
def test_a_run_that_waits_is_woken_with_the_answer(setting: Setting, serve: Any, alive: str | None) -> None:
    api = serve("PAUSED")
    asked(setting, alive or own_identity(), api.url)
    told = approve()
    assert told == f"CONTINUE by ann recorded for plan {setting.plan.plan_hash}"
    (form,) = api.resumed
    assert form["run_input"] == {"answer": "CONTINUE", "approver": "ann", "reason": "good"}


def test_the_same_answer_again_wakes_a_run_that_was_not_woken(
    setting: Setting, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_campaign.tasks.waiting.WAKE_SECONDS", 0.0)
    api = serve("PAUSED", broken=True)
    asked(setting, gates.SUSPENDED, api.url)
    assert "does not wait any more" in approve()
    api.broken = False
    told = approve(by="bob")
    assert told == f"CONTINUE by ann was on record for plan {setting.plan.plan_hash} already"
    assert api.resumed[-1]["run_input"]["approver"] == "ann"
    with pytest.raises(Refused, match="was answered CONTINUE by ann already"):
        approve("KILL")
    assert on_record(setting) == ("CONTINUE", "ann")


def test_a_run_that_has_paused_but_takes_no_form_yet_is_asked_again(setting: Setting, serve: Any) -> None:
    api = serve("PAUSED")
    api.rejections = 1
    asked(setting, gates.SUSPENDED, api.url)
    assert approve().endswith(f"recorded for plan {setting.plan.plan_hash}")
    assert len(api.resumed) == 2


@pytest.mark.parametrize("more", [{"drop": ["lr1"]}, {"budget_hours": 20.0}])
def test_the_same_answer_with_other_terms_is_refused(setting: Setting, more: dict[str, Any]) -> None:
    asked(setting, answer="CONTINUE")
    with pytest.raises(Refused, match="on record with other drops, changes or budget"):
        approve(**more)


def test_no_answer_while_experiments_run_again(setting: Setting) -> None:
    asked(setting)
    setting.change(status="open")
    with pytest.raises(Refused, match="it asks anew with their results"):
        approve()
    assert on_record(setting) == (None, None)


def test_a_user_without_a_name_must_give_one(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(setting)
    monkeypatch.setattr("getpass.getuser", lambda: {}["uid 4711"])
    with pytest.raises(Refused, match="give it by --by"):
        approve(by=" ")
    assert on_record(setting) == (None, None)


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "CRASHED"])
def test_a_run_that_is_over_is_said_so(setting: Setting, serve: Any, state: str) -> None:
    asked(setting, gates.SUSPENDED, serve(state).url)
    assert "does not wait any more: `campaign resume demo`" in approve()


def test_an_answer_to_another_question_is_refused(setting: Setting) -> None:
    one = asked(setting)
    with pytest.raises(Refused, match="asks anew"):
        approve(question_id=one.id + 1)
    assert on_record(setting) == (None, None)
    approve(question_id=one.id)


def test_a_hold_says_what_it_waits_for(setting: Setting) -> None:
    asked(setting, answer="HOLD")
    with pytest.raises(Refused, match=r"put on hold \(because\).*campaign resume demo"):
        approve()


@pytest.mark.parametrize(
    ("change", "problem"),
    [("momentum=1", "no parameter of this campaign"), ("lr", "not of the form"), ("lr=[1]", "must be one number")],
)
def test_changes_are_checked_before_the_answer_is_recorded(setting: Setting, change: str, problem: str) -> None:
    asked(setting)
    with pytest.raises(Refused, match=problem):
        approve("PIVOT", changes=[change])
    assert on_record(setting) == (None, None)


def test_an_ended_round_takes_no_answer(setting: Setting) -> None:
    asked(setting)
    setting.change(status="killed")
    with pytest.raises(Refused, match="asks nothing now"):
        approve()
