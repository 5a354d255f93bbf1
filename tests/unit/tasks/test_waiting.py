"""Tending a gate between the answer and the run that waits, and the steps around it."""

import os
from typing import Any

import pytest
from unit.gate_lab import Api, asked, on_record

from prefect_campaign.cli.run import _reopen
from prefect_campaign.engine.process import identity_of
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.ledger import gates
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.model.errors import Driven, Refused
from prefect_campaign.model.states import CampaignStatus, ExperimentState
from prefect_campaign.tasks.gate import GateForm, _record
from prefect_campaign.tasks.steps import end, enter_full
from prefect_campaign.tasks.waiting import tend_gate


async def test_a_question_that_nobody_waits_for_is_left_alone(setting: Setting) -> None:
    await tend_gate(setting)
    asked(setting)
    await tend_gate(setting)
    assert on_record(setting) == (None, None)


async def test_an_answered_run_is_woken(setting: Setting, serve: Any) -> None:
    api: Api = serve("PAUSED")
    asked(setting, gates.SUSPENDED, api.url)
    await tend_gate(setting)
    assert not api.resumed
    with setting.ledger.write() as connection:
        one = gates.question(connection, setting.row.id, setting.plan.plan_hash)
        assert one
        gates.answer(connection, one, choice="KILL", by="ann", reason="", channel="cli", now=1.0)
    await tend_gate(setting)
    assert [form["run_input"]["answer"] for form in api.resumed] == ["KILL"]


def test_a_form_that_does_not_validate_is_a_hold_with_the_reason(setting: Setting) -> None:
    for form, reason in (
        (None, "resumed without an answer"),
        (GateForm(reason="not yet"), "not yet"),
        (GateForm(answer="CONTINUE"), "not accepted: by: the name"),
        (GateForm(answer="PIVOT", approver="ann", changes=["momentum=1"]), "not accepted: changes: 'momentum'"),
        (GateForm(answer="PIVOT", approver="ann", changes=["when=2024-13-45"]), "not accepted: changes: 'when'"),
        (GateForm(answer="KILL", approver="ann", drop_experiments=["x"]), "not accepted: drop: 'x'"),
    ):
        one = asked(setting)
        _record(setting, one, form)
        with setting.ledger.read() as connection:
            found = gates.question(connection, setting.row.id, setting.plan.plan_hash)
        assert found
        assert found.answer == "HOLD"
        assert str(found.reason).startswith(reason)


def test_a_form_for_a_plan_that_was_replaced_ends_the_run(setting: Setting) -> None:
    one = asked(setting)
    setting.change(plan_hash="f" * 16)
    with pytest.raises(Refused, match="another plan or round took its place"):
        _record(setting, one, GateForm(answer="CONTINUE", approver="ann"))
    assert on_record(setting) == (None, None)


def test_the_full_phase_opens_for_the_approved_plan_only(setting: Setting) -> None:
    one = asked(setting)
    with pytest.raises(Refused, match="no approval that still holds"):
        enter_full(setting, one)
    ids = [v.exp_id for v in setting.views("full")]
    with setting.ledger.write() as connection:
        gates.answer(connection, one, choice="CONTINUE", by="ann", reason="", channel="ui", now=1.0, drop=ids[:1])
        found = gates.question(connection, setting.row.id, setting.plan.plan_hash)
    assert found
    enter_full(setting, found)
    assert [v.state for v in setting.views("full")] == ["cancelled", "planned"]
    assert open_setting("demo").row.phase == "full"
    setting.change(plan_hash="f" * 16)
    with pytest.raises(Refused, match="no approval that still holds"):
        enter_full(setting, found)


def test_the_reason_for_staying_open_is_on_record(setting: Setting) -> None:
    end(setting, CampaignStatus.OPEN, "2 of 3 are held")
    assert open_setting("demo").row.reason == "2 of 3 are held"


def failed(setting: Setting) -> str:
    exp_id = setting.views()[0].exp_id
    steps = [("planned", "ready"), ("ready", "launching"), ("launching", "failed")]
    with setting.ledger.write() as connection:
        for old, new in steps:
            one = Move(exp_id, ExperimentState(old), ExperimentState(new))
            move(connection, setting.row.id, [one], now=1.0, who="test")
    return exp_id


def test_running_failures_again_takes_the_question_back(setting: Setting) -> None:
    exp_id = failed(setting)
    asked(setting, gates.SUSPENDED)
    _reopen(setting, "ann")
    assert setting.view(exp_id).state == "planned"
    assert on_record(setting)[0] == "HOLD"


def test_failures_do_not_run_again_while_a_process_waits_for_the_answer(setting: Setting) -> None:
    exp_id = failed(setting)
    asked(setting, identity_of(os.getppid()))
    with pytest.raises(Driven, match="waits at its gate"):
        _reopen(setting, "ann")
    assert setting.view(exp_id).state == "failed"
    assert on_record(setting) == (None, None)
