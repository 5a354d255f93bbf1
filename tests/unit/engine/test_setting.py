"""Which plan a run goes on with, and who may touch a campaign."""

import os
from contextlib import nullcontext
from typing import Any

import pytest
from ledgers import prepare

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.pivot import changed_campaign
from prefect_campaign.engine.process import identity_alive, identity_of, own_identity
from prefect_campaign.engine.setting import Setting, open_setting, refuse_if_awaited, register, setting_of_run
from prefect_campaign.ledger import campaigns, gates
from prefect_campaign.ledger.gates import Waiting
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Driven, Fenced, Refused

RUN = "11111111-2222-3333-4444-555555555555"


def campaign(**changes: Any) -> Campaign:
    given = {
        "name": "demo",
        "command": "true {lr} {epochs}",
        "sweep": Sweep.grid(lr=[1, 2, 3]),
        "args": {"epochs": 5},
        "objective": Objective(metric="acc"),
        "workdir": "/tmp",
    }
    return Campaign(**{**given, **changes})


def asked(setting: Setting, answer: str = "", run: str | None = None, **more: Any) -> gates.Question:
    with setting.ledger.write() as connection:
        one = gates.ask(
            connection,
            setting.row.id,
            plan_hash=setting.plan.plan_hash,
            iteration=setting.row.iteration,
            shown="",
            cost={},
            now=1.0,
        )
        gates.bind_waiting(connection, one.id, Waiting(run, None, gates.SUSPENDED))
        if answer:
            gates.answer(connection, one, choice=answer, by="ann", reason="", channel="cli", now=2.0, **more)
    return one


def drive(setting: Setting, owner: str) -> int:
    with setting.ledger.write() as connection:
        return campaigns.acquire(
            connection,
            setting.row.id,
            owner=owner,
            now=setting.ledger.clock(),
            ttl=60,
            alive=identity_alive,
            plan_hash=setting.row.plan_hash,
        )


@pytest.fixture(autouse=True)
def _ledger(home: Home) -> None:
    prepare(home)


@pytest.fixture
def other() -> str:
    """Identity of another living process: of whoever started this one."""
    identity = identity_of(os.getppid())
    assert identity
    return identity


def test_a_driven_campaign_is_not_replanned(home: Home, other: str) -> None:
    first = register(campaign())
    drive(first, other)
    for spec in (campaign(), campaign(args={"epochs": 6})):
        with pytest.raises(Driven, match=r"another process drives it .*campaign status demo"):
            register(spec)
    assert open_setting("demo").plan == first.plan


def test_the_own_lease_and_that_of_the_dead_are_no_obstacle(home: Home) -> None:
    drive(register(campaign()), own_identity())
    assert register(campaign(args={"epochs": 6})).row.iteration == 1
    drive(register(campaign(args={"epochs": 6})), own_identity().rsplit(":", 1)[0] + ":boot.1")
    assert register(campaign(args={"epochs": 7})).campaign.args == {"epochs": 7}


def test_a_changed_plan_fences_off_whoever_worked_on_the_old_one(home: Home) -> None:
    first = register(campaign())
    fence = drive(first, own_identity())
    register(campaign(args={"epochs": 6}))
    with pytest.raises(Fenced), first.ledger.fenced(first.row.id, fence):
        pass


def test_the_old_spec_goes_on_with_what_a_pivot_made_of_it(home: Home) -> None:
    asked(register(campaign()), "PIVOT", changes={"epochs": 9})
    changed = register(campaign(args={"epochs": 9}))
    again = register(campaign())
    assert (again.plan, again.campaign.args, again.row.plan_hash) == (
        changed.plan,
        {"epochs": 9},
        changed.plan.plan_hash,
    )
    # A person who edits the spec has the last word.
    assert register(campaign(args={"epochs": 7})).campaign.args == {"epochs": 7}


def pivoted(setting: Setting, epochs: int) -> Setting:
    """What the flow does after a PIVOT with changes."""
    asked(setting, "PIVOT", changes={"epochs": epochs})
    setting.change(status="pivoted")
    return register(changed_campaign(setting.campaign, {"epochs": epochs}), follow_pivots=False)


def test_one_pivot_after_the_other_is_followed(home: Home) -> None:
    last = pivoted(pivoted(register(campaign()), 9), 11)
    assert (last.campaign.args, last.row.iteration) == ({"epochs": 11}, 3)
    assert register(campaign()).plan == last.plan
    assert register(campaign(args={"epochs": 9})).plan == last.plan


def test_a_pivot_back_to_an_earlier_plan_is_asked_about_anew(home: Home) -> None:
    first = register(campaign())
    back = pivoted(pivoted(first, 9), 5)
    assert (back.plan, back.row.iteration) == (first.plan, 3)
    again = asked(back)
    assert (again.answer, again.iteration, again.try_no) == (None, 3, 2)
    assert register(campaign()).plan == back.plan


def test_an_edited_spec_ends_the_following(home: Home) -> None:
    pivoted(register(campaign()), 9)
    register(campaign(args={"epochs": 77}))
    assert register(campaign()).campaign.args == {"epochs": 5}


def test_nobody_takes_the_lease_to_work_on_a_plan_that_was_replaced(home: Home) -> None:
    first = register(campaign())
    register(campaign(args={"epochs": 6}))
    with pytest.raises(Fenced, match=f"plan {first.plan.plan_hash} was replaced"):
        drive(first, own_identity())


def test_a_pivot_by_hand_leaves_the_choice_to_the_spec(home: Home) -> None:
    asked(register(campaign()), "PIVOT")
    register(campaign(args={"epochs": 9}))
    assert register(campaign()).campaign.args == {"epochs": 5}


def test_a_run_that_never_asked_has_no_campaign(home: Home) -> None:
    assert setting_of_run(RUN) is None  # no ledger yet
    asked(register(campaign()), run="another")
    assert setting_of_run(RUN) is None


@pytest.mark.parametrize("answer", ["", "HOLD", "CONTINUE", "KILL"])
def test_a_suspended_run_goes_on_with_the_plan_it_asked_about(home: Home, answer: str) -> None:
    setting = register(campaign())
    asked(setting, answer, RUN)
    found = setting_of_run(RUN)
    assert found
    assert found.plan == setting.plan


def test_a_suspended_run_goes_on_with_its_own_pivot(home: Home) -> None:
    asked(register(campaign()), "PIVOT", RUN, changes={"epochs": 9})
    changed = register(campaign(args={"epochs": 9}))
    found = setting_of_run(RUN)
    assert found
    assert found.plan == changed.plan


@pytest.mark.parametrize("answer", ["", "CONTINUE", "PIVOT"])
def test_a_suspended_run_whose_plan_was_replaced_stops(home: Home, answer: str) -> None:
    asked(register(campaign()), answer, RUN)
    register(campaign(args={"epochs": 7}))
    with pytest.raises(Refused, match=r"was replaced by plan .* while this run waited"):
        setting_of_run(RUN)


def test_a_suspended_run_of_an_earlier_round_stops(home: Home) -> None:
    setting = register(campaign())
    asked(setting, run=RUN)
    setting.change(status="killed")
    register(campaign(), new_round=True)
    with pytest.raises(Refused, match="of round 2 while this run waited"):
        setting_of_run(RUN)


def test_a_gate_at_which_a_living_process_waits_is_left_alone(home: Home, other: str) -> None:
    setting = register(campaign())
    one = asked(setting)
    for waiter, refused in ((own_identity(), False), (other + "1", False), (other, True)):
        with setting.ledger.write() as connection:
            gates.bind_waiting(connection, one.id, Waiting(RUN, None, waiter))
            with pytest.raises(Driven, match="waits at its gate") if refused else nullcontext():
                refuse_if_awaited(connection, setting.row)
