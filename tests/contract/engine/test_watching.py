"""What the dispatcher sees while jobs run: losses, time, silence, other hands."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted, tick_until, until

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.states import ExperimentState

HEAL = """case "$*" in *--lr=1.0*) echo '{"loss": NaN, "step": 1}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"; sleep 60;; esac
"""


def over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def alerts(lab: Lab) -> list[tuple[str, int, str]]:
    return [(r["syndrome"], r["attempt"], r["severity"]) for r in lab.rows(t.alerts)]


async def test_a_loss_that_is_not_finite_is_stopped_alerted_once_and_healed(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, HEAL + REPORT, command="sh job.sh --lr={x}", points=[1.0, 0.5])).run()
    lab.settled()
    healed, fine = lab.views
    assert (healed.state, healed.attempt, healed.comparable) == ("done", 2, False)
    assert healed.changes == ("learning_rate 1.0 -> 0.1",)
    assert alerts(lab) == [("nan_inf_loss", 1, "critical")]
    assert (fine.state, fine.attempt, fine.comparable) == ("done", 1, True)


async def test_a_loss_that_is_not_finite_at_the_end_is_alerted_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("prefect_campaign.engine.dispatcher.LOOK_SECONDS", 3600)
    script = """echo '{"loss": NaN}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"; exit 1"""
    lab = await Lab(campaign(tmp_path, script)).run()
    assert (lab.only.state, lab.only.signature) == ("failed", "nan_loss")
    assert alerts(lab) == [("nan_inf_loss", 1, "critical")]


async def test_policy_may_only_alert(tmp_path: Path) -> None:
    script = f"""echo '{{"loss": NaN}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"
while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n{REPORT}"""
    lab = Lab(campaign(tmp_path, script, policy={"on_non_finite": "continue"}))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: alerts(lab))
        for _ in range(10):
            await dispatcher.tick()
            await asyncio.sleep(0.02)
        assert lab.states == ["running"]
        (tmp_path / "go").touch()
        await asyncio.wait_for(dispatcher.run(), 20)
    assert (lab.only.state, lab.only.attempt) == ("done", 1)
    assert alerts(lab) == [("nan_inf_loss", 1, "critical")]


async def test_news_are_told_and_recorded_while_the_job_runs(tmp_path: Path) -> None:
    script = f"""echo '{{"loss": 3, "step": 1}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"
while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n{REPORT}"""
    lab = Lab(campaign(tmp_path, script))
    told: list[AttemptSpec] = []
    async with lab.open() as dispatcher:
        dispatcher.on_news = told.append
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: told)
        assert (lab.only.state, lab.only.metrics) == ("running", {"loss": 3})
        for _ in range(5):
            before = lab.dump()
            await asyncio.sleep(0.06)
            await dispatcher.tick()
            assert lab.dump() == before  # no news, nothing written
        assert len(told) == 1
        (tmp_path / "go").touch()
        await asyncio.wait_for(dispatcher.run(), 20)
    assert lab.only.metrics == {"loss": 3, "acc": 0.5}


@pytest.mark.parametrize(
    ("changes", "signature"),
    [
        ({"resources": {"time_minutes": 0.01}}, "timeout"),
        ({"policy": {"hang_minutes": 0.01}}, "hang"),
    ],
)
async def test_what_runs_too_long_or_falls_silent_is_stopped_with_all_its_children(
    tmp_path: Path, changes: dict, signature: str
) -> None:
    script = f"sh -c 'echo $$ >{tmp_path}/child; sleep 300' & sleep 300\n"
    lab = await Lab(campaign(tmp_path, script, **changes)).run()
    lab.settled()
    assert (lab.only.state, lab.only.attempt, lab.only.signature) == ("failed", 1, signature)
    assert alerts(lab) == [(signature, 1, "critical")]
    assert over(int((tmp_path / "child").read_text()))


async def test_a_job_that_keeps_talking_does_not_hang(tmp_path: Path) -> None:
    script = f"for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.05; done\n{REPORT}"
    lab = await Lab(campaign(tmp_path, script, policy={"hang_minutes": 0.005})).run()
    assert (lab.states, alerts(lab)) == (["done"], [])


async def test_a_stubborn_job_does_not_hold_up_the_others(tmp_path: Path) -> None:
    script = f"""[ "$1" = 1 ] || {{ {REPORT.strip()}; exit; }}
trap '' TERM; echo '{{"loss": NaN}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"
while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 1"""
    lab = Lab(campaign(tmp_path, script, points=[1, 2, 3, 4]))
    async with lab.open() as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.states[1:] == ["done"] * 3, 8)  # TERM gets 10 s before KILL follows
        assert lab.states[0] == "running"
        (tmp_path / "go").touch()
        await asyncio.wait_for(driving, 20)
    assert (lab.views[0].state, lab.views[0].signature) == ("failed", "nan_loss")


async def test_a_job_that_was_killed_from_outside_is_lost_and_tried_again(tmp_path: Path) -> None:
    script = f"""[ "$CAMPAIGN_ATTEMPT" = 1 ] || {{ {REPORT.strip()}; exit; }}
echo $PPID >{tmp_path}/leader.new; mv {tmp_path}/leader.new {tmp_path}/leader; sleep 60"""
    lab = Lab(campaign(tmp_path, script))
    async with lab.open() as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until((tmp_path / "leader").exists)
        os.killpg(int((tmp_path / "leader").read_text()), signal.SIGKILL)
        await asyncio.wait_for(driving, 20)
    lab.settled()
    assert (lab.only.state, lab.only.attempt) == ("done", 2)
    assert [(r["state"], r["signature"]) for r in lab.rows(t.attempts)] == [("lost", "lost"), ("done", None)]


async def test_cancelling_stops_this_batch_and_nothing_is_tried_again(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, "sleep 60", points=[1, 2]))
    async with lab.open() as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.states == ["running", "running"])
        await dispatcher.cancel_all("wrong data set")
        await asyncio.wait_for(driving, 20)
    lab.settled()
    assert lab.states == ["cancelled", "cancelled"]
    assert lab.views[0].reason == "wrong data set"
    assert {r["state"] for r in lab.rows(t.attempts)} == {"cancelled"}


async def test_a_stop_that_fails_is_tried_again(tmp_path: Path) -> None:
    from prefect_campaign.launch.local import LocalLauncher

    class Slippery(LocalLauncher):
        tries = 0

        async def cancel(self, spec, handle, *, grace_seconds: float = 10.0) -> None:
            self.tries += 1
            if self.tries == 1:
                raise Transient("not now")
            await super().cancel(spec, handle, grace_seconds=grace_seconds)

    launcher = Slippery()
    spec = campaign(tmp_path, "sleep 60", resources={"time_minutes": 0.002})
    lab = Lab(spec)
    async with lab.open(launcher) as dispatcher:
        await asyncio.wait_for(dispatcher.run(), 15)
    assert (lab.only.state, lab.only.signature, launcher.tries) == ("failed", "timeout", 2)


async def test_a_single_tick_stops_what_must_be_stopped_and_records_its_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("prefect_campaign.engine.dispatcher.LOOK_SECONDS", 3600)
    lab = Lab(campaign(tmp_path, "sleep 60", resources={"time_minutes": 0.001}, policy={"pilot_retries": 0}))
    await interrupted(lab, lambda: lab.states == ["running"])
    await asyncio.sleep(0.1)
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert (lab.only.state, lab.only.signature) == ("failed", "timeout")
    lab.settled()
    assert alerts(lab) == [("timeout", 1, "critical")]


async def test_a_single_tick_records_what_live_jobs_report(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("prefect_campaign.engine.dispatcher.LOOK_SECONDS", 3600)
    lab = Lab(campaign(tmp_path, f"{REPORT}sleep 60"))
    await interrupted(lab, lambda: lab.ran and list(lab.setting.home.path.rglob("metrics.jsonl")))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert (lab.only.state, lab.only.metrics) == ("running", {"acc": 0.5})
        await dispatcher.cancel_all("enough")
        await dispatcher.tick()
    assert lab.states == ["cancelled"]


async def test_a_stop_that_fails_keeps_its_reason_and_is_logged(tmp_path: Path, caplog) -> None:
    from prefect_campaign.launch.local import LocalLauncher

    class Broken(LocalLauncher):
        async def cancel(self, spec, handle, *, grace_seconds: float = 10.0) -> None:
            raise RuntimeError("a bug")

    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n{REPORT}"
    lab = Lab(campaign(tmp_path, script, resources={"time_minutes": 0.001}))
    async with lab.open(Broken()) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: alerts(lab))
        await dispatcher.tick()
        (tmp_path / "go").touch()
        await tick_until(dispatcher, lambda: lab.states == ["failed"])
    assert (lab.only.signature, lab.ran) == ("timeout", [f"{lab.only.exp_id} a1"])
    assert alerts(lab) == [("timeout", 1, "critical")]
    assert sum("could not be stopped, will be tried again: a bug" in r.message for r in caplog.records) >= 2
    assert not [r for r in caplog.records if "never retrieved" in r.message]


async def test_all_alerts_that_apply_are_given_once_each(tmp_path: Path) -> None:
    script = """echo '{"loss": NaN}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"; sleep 60"""
    spec = campaign(tmp_path, script, resources={"time_minutes": 0.01}, policy={"on_non_finite": "continue"})
    lab = await Lab(spec).run()
    assert alerts(lab) == [("nan_inf_loss", 1, "critical"), ("timeout", 1, "critical")]
    assert [r["effect"] for r in lab.rows(t.alerts)] == ["continue", "stop"]


async def test_an_experiment_that_others_took_away_is_told_to_who_waits(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, "exit 3", policy={"retry_delay_seconds": 0.3}))
    async with lab.open() as dispatcher:
        dispatcher.ends.on_end = lab.ends.append
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states == ["queued"])
        with lab.setting.ledger.write() as connection:
            held = Move(lab.only.exp_id, ExperimentState.QUEUED, ExperimentState.CANCELLED, "not needed")
            move(connection, lab.setting.row.id, [held], now=0.0, who="ada")
        await tick_until(dispatcher, lambda: len(lab.ends) > 1)
    assert [(e.state, e.reason) for e in lab.ends][1:] == [("cancelled", "not needed")]
    lab.settled()
