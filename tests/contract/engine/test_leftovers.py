"""Attempts of other stages and of rounds that are over: they are followed to their end, for they hold devices."""

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted, tick_until, until
from contract.engine.test_adoption import Crash, CrashingLauncher, gated
from contract.engine.test_launching import Vague

from prefect_campaign.engine.setting import open_setting
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import set_status


def end_round(lab: Lab, status: str = "completed") -> None:
    setting = lab.setting
    with setting.ledger.write() as connection:
        set_status(connection, setting.row.id, now=0.0, who="test", status=status)
    lab.setting = open_setting(lab.spec.name)


async def two_left_running(lab: Lab) -> None:
    await interrupted(lab, lambda: len(lab.ran) == 2 and "launching" not in lab.states)


async def test_attempts_of_another_stage_are_followed_to_their_end(tmp_path: Path) -> None:
    pilot = Lab(gated(tmp_path, points=[1, 2, 3]))
    await two_left_running(pilot)
    full = Lab(pilot.spec, "full")
    launched: list[str] = []
    async with full.open() as dispatcher:
        dispatcher.on_launch, dispatcher.ends.on_end = lambda e, _: launched.append(e), full.ends.append
        await dispatcher.adopt()
        await dispatcher.tick()
        assert sorted(full.states) == ["ready"] * 3  # no device is free
        (tmp_path / "go").touch()
        await asyncio.wait_for(dispatcher.run(), 20)
    full.settled()
    assert sorted(pilot.states) == ["done", "done", "ready"]  # followed, but nothing of that stage is started
    assert full.states == ["done"] * 3
    assert sorted(launched) == sorted(v.exp_id for v in full.views)  # others have no task run here
    assert len(full.ends) == 5


async def test_a_failure_in_another_stage_waits_for_that_stage(tmp_path: Path) -> None:
    script = f'while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; [ "$CAMPAIGN_ATTEMPT" = 1 ] && exit 3\n{REPORT}'
    pilot = Lab(campaign(tmp_path, script, points=[1, 2], policy={"full_retries": 0, "pilot_retries": 1}))
    await two_left_running(pilot)
    (tmp_path / "go").touch()
    full = await Lab(pilot.spec, "full").run()
    assert full.states == ["failed"] * 2  # by the full phase's own number of retries
    assert [(v.state, v.attempt) for v in pilot.views] == [("queued", 1)] * 2
    await pilot.run()
    assert [(v.state, v.attempt) for v in pilot.views] == [("done", 2)] * 2
    pilot.settled()


async def test_what_runs_after_the_round_is_over_is_recorded_and_nothing_starts(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3]))
    await two_left_running(lab)
    end_round(lab)
    async with lab.open(settle=True) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert sorted(lab.states) == ["ready", "running", "running"]
        (tmp_path / "go").touch()
        await asyncio.wait_for(dispatcher.run(), 20)
    lab.settled()
    assert sorted(lab.states) == ["done", "done", "ready"]
    assert len(lab.ran) == 2


async def test_nothing_is_tried_again_after_the_round_is_over(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2]))
    await two_left_running(lab)
    end_round(lab)
    for view in lab.views:
        leader = psutil.Process(int(view.job_id))
        for process in [leader, *leader.children(True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    async with lab.open(settle=True) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: "running" not in lab.states)
    lab.settled()
    assert [(v.state, v.attempt) for v in lab.views] == [("failed", 1)] * 2
    assert "not tried again: the campaign is completed" in lab.views[0].reason


@pytest.mark.parametrize("after", [False, True], ids=["nothing was started", "it was started"])
async def test_an_intent_of_a_round_that_is_over_is_closed(tmp_path: Path, after: bool) -> None:
    lab = Lab(campaign(tmp_path, REPORT))
    with pytest.raises(Crash):
        await lab.run(CrashingLauncher(after=after))
    end_round(lab)
    async with lab.open(settle=True) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states != ["launching"] and lab.states != ["running"])
    lab.settled()
    assert lab.states == ["done" if after else "cancelled"]
    assert len(lab.ran) == after
    if not after:
        assert lab.only.reason.startswith("never started")


async def test_an_intent_of_a_round_that_is_over_stays_while_the_launcher_cannot_say(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, REPORT))
    with pytest.raises(Crash):
        await lab.run(CrashingLauncher(after=False))
    end_round(lab)
    async with lab.open(Vague(started=False, broken=2), settle=True) as dispatcher:
        await dispatcher.adopt()
        assert lab.states == ["launching"]
        await tick_until(dispatcher, lambda: lab.states == ["cancelled"])
    lab.settled()


async def test_at_the_gate_an_intent_is_carried_out_and_a_failure_keeps_its_retries(tmp_path: Path) -> None:
    script = f'[ "$CAMPAIGN_ATTEMPT" = 1 ] && exit 3\n{REPORT}'
    lab = Lab(campaign(tmp_path, script, policy={"pilot_retries": 1}))
    with pytest.raises(Crash):
        await lab.run(CrashingLauncher(after=False))
    end_round(lab, "at_gate")
    async with lab.open(settle=True) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states not in (["launching"], ["running"]))
    lab.settled()
    assert [(v.state, v.attempt) for v in lab.views] == [("queued", 1)]


async def test_a_slot_that_another_stage_holds_is_taken_as_soon_as_it_is_free(tmp_path: Path) -> None:
    script = f'case "$CAMPAIGN_EXP_ID" in p1*) while [ ! -e {tmp_path}/go ]; do sleep 0.02; done;; esac\n'
    pilot = Lab(campaign(tmp_path, script + REPORT, points=[1, 2]))
    await two_left_running(pilot)
    full = Lab(pilot.spec, "full")
    async with full.open() as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await asyncio.sleep(0.2)
        assert full.states == ["ready", "ready"]
        assert len(full.rows(t.leases)) == 2
        (tmp_path / "go").touch()
        await until(lambda: full.states == ["done", "done"], 10)
        await asyncio.wait_for(driving, 10)
    full.settled()
