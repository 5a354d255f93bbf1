"""The monitor flow's own part: trouble that passes, and ticks over many campaigns. Its task runs are left out."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted
from contract.engine.test_adoption import gated
from contract.engine.waiting_queue import HOST, WaitingQueue, queued
from prefect.logging import disable_run_logger

from prefect_campaign.engine.dispatcher import Dispatcher
from prefect_campaign.engine.setting import register
from prefect_campaign.flows import monitor as module
from prefect_campaign.flows.monitor import monitor
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import set_status
from prefect_campaign.model.errors import CampaignError, Driven, Fenced, Refused, Transient
from prefect_campaign.model.records import Observation


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def followed(exp_id: str) -> None:
        end = None
        while end is None or end.state == "queued":
            end = await module.current_dispatcher.get().ends.next(exp_id)

    monkeypatch.setattr(module, "_followed", followed)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test_monitor"))
    with disable_run_logger():
        yield


def labs(folder: Path, *names: str) -> list[Lab]:
    found = []
    for name in names:
        (folder / name).mkdir()
        found.append(Lab(campaign(folder / name, REPORT, name=name)))
    return found


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Let the dispatcher's rounds fail with these, one after the other, and then work."""
    real, left = Dispatcher._round, list(errors)

    async def round_(self: Dispatcher) -> None:
        if left:
            raise left.pop(0)
        await real(self)

    monkeypatch.setattr(Dispatcher, "_round", round_)
    return left


def end_round(lab: Lab, status: str) -> None:
    with lab.setting.ledger.write() as connection:
        set_status(connection, lab.setting.row.id, now=0.0, who="test", status=status)


async def test_watching_goes_on_after_trouble_that_passes(tmp_path: Path, monkeypatch, caplog) -> None:
    lab = Lab(campaign(tmp_path, REPORT, points=[1, 2]))
    failing(monkeypatch, Transient("ledger: locked"), Transient("ledger: disk full"))
    with caplog.at_level(logging.WARNING):
        found = await asyncio.wait_for(monitor.fn("lab", "only"), 20)
    assert found == {"lab": "only: 2 done"}
    assert [r.message.split(";")[0] for r in caplog.records] == ["ledger: locked", "ledger: disk full"]
    lab.settled()


async def test_a_locked_ledger_in_the_middle_costs_no_attempt(tmp_path: Path, monkeypatch) -> None:
    lab = Lab(campaign(tmp_path, f"sleep 0.2\n{REPORT}", points=[1, 2, 3]))
    real, calls = Dispatcher._round, 0

    async def round_(self: Dispatcher) -> None:
        nonlocal calls
        await real(self)
        calls += 1
        if calls in (1, 3):
            raise Transient("ledger: locked")

    monkeypatch.setattr(Dispatcher, "_round", round_)
    assert await asyncio.wait_for(monitor.fn("lab", "only"), 20) == {"lab": "only: 3 done"}
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)
    lab.settled()


@pytest.mark.parametrize("error", [Fenced("another took over"), Driven("another is at work"), ValueError("a bug")])
async def test_other_trouble_ends_the_watching_at_once(tmp_path: Path, monkeypatch, error: Exception) -> None:
    lab = Lab(campaign(tmp_path, REPORT))
    failing(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(monitor.fn("lab", "only"), 20)
    assert lab.states == ["ready"]


async def test_a_tick_looks_at_every_campaign(tmp_path: Path) -> None:
    one, two = labs(tmp_path, "one", "two")
    for _ in range(100):
        found = await monitor.fn()
        if (one.states, two.states) == (["done"], ["done"]):
            break
    assert found.keys() == {"one", "two"}
    assert one.ran == [f"{one.only.exp_id} a1"]
    assert await monitor.fn() == {"one": "no material change", "two": "no material change"}


@pytest.mark.parametrize("error", [Refused("bad spec"), Transient("ledger: locked"), KeyError("a bug")])
async def test_one_campaigns_trouble_is_told_at_the_end_and_the_others_get_their_tick(
    tmp_path: Path, monkeypatch, caplog, error: Exception
) -> None:
    one, two = labs(tmp_path, "one", "two")
    failing(monkeypatch, error)
    with pytest.raises(CampaignError, match="1 of 2 not looked at: .*" + str(error)):
        await monitor.fn()
    assert "one: could not be looked at" in [r.message for r in caplog.records]
    assert one.states == ["ready"]
    assert two.states != ["ready"]


@pytest.mark.parametrize("error", [Driven("by pid 1"), Fenced("by pid 1")])
async def test_a_campaign_that_is_watched_is_left_alone(tmp_path: Path, monkeypatch, error: Exception) -> None:
    labs(tmp_path, "one", "two")
    failing(monkeypatch, error)
    assert (await monitor.fn())["one"] == "watched by its own flow (by pid 1)"


async def test_a_tick_says_why_nothing_starts(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3], policy={"max_parallel": 2}))
    (tmp_path / "other").mkdir()
    other = Lab(gated(tmp_path / "other", name="other", policy={"max_parallel": 2}))
    await monitor.fn("lab")
    found = await monitor.fn()
    assert found["other"] == "no material change; 1 wait: 1 for a free slot (2 in all, 2 leased)"
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "go").touch()
    await asyncio.wait_for(monitor.fn("lab", "only"), 20)
    await asyncio.wait_for(monitor.fn("other", "only"), 20)
    assert (lab.states, other.states) == (["done"] * 3, ["done"])


async def test_a_tick_looks_again_where_only_this_process_can_tell(tmp_path: Path, monkeypatch) -> None:
    """What it says at a first look is in no memory but its own, and each tick is a process of its own."""

    class Doubting(WaitingQueue):
        looks = 0

        @property
        def unsettled(self) -> bool:
            return self.looks < 3

        async def observe(self, handles):
            self.looks += 1
            return {s.token: Observation("running" if self.unsettled else "gone") for s, _ in handles}

    async def launcher_of(campaign):
        return Fleet({HOST: Doubting(accepted=accepted)})

    lab, accepted = queued(tmp_path, 1), {}
    monkeypatch.setattr(module, "launcher_of", launcher_of)
    for _ in range(2):
        await monitor.fn("lab")
    assert lab.rows(t.attempts)[0]["state"] == "lost"


@pytest.mark.parametrize("status", ["at_gate", "completed", "killed", "pivoted"])
async def test_a_tick_follows_what_runs_though_its_round_is_closed(tmp_path: Path, status: str) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3]))
    await interrupted(lab, lambda: len(lab.ran) == 2 and "launching" not in lab.states)
    end_round(lab, status)
    assert await monitor.fn() == {"lab": "no material change"}
    (tmp_path / "go").touch()
    async with asyncio.timeout(20):
        while (found := await monitor.fn()) == {"lab": "no material change"}:
            pass
        while "running" in lab.states:
            await monitor.fn()
    assert found["lab"].startswith(f"{status}: ")
    lab.settled()
    assert sorted(lab.states) == ["done", "done", "ready"]
    left = {"lab": f"no material change ({status})"}
    assert await monitor.fn() == (left if status == "at_gate" else {})
    assert await monitor.fn("lab") == left
    assert len(lab.ran) == 2


async def test_a_new_round_follows_what_still_runs_from_the_one_before(tmp_path: Path) -> None:
    old = Lab(gated(tmp_path, points=[1, 2]))
    await interrupted(old, lambda: len(old.ran) == 2 and "launching" not in old.states)
    end_round(old, "killed")
    register(old.spec, new_round=True)
    new = Lab(old.spec)
    assert (await monitor.fn()).keys() == {"lab", "lab, round 1"}
    watching = asyncio.create_task(monitor.fn("lab", "only"))
    await asyncio.sleep(0.3)
    assert (old.states, new.states) == (["running"] * 2, ["ready"] * 2)
    (tmp_path / "go").touch()
    await asyncio.wait_for(watching, 20)
    assert (old.states, new.states) == (["done"] * 2, ["done"] * 2)
    assert new.rows(t.leases) == []


async def test_a_name_that_is_unknown_is_refused(tmp_path: Path) -> None:
    labs(tmp_path, "one")
    with pytest.raises(Refused, match="'nobody': not in the ledger"):
        await monitor.fn("nobody")


async def test_leftovers_that_cannot_be_followed_do_not_end_the_watching(tmp_path: Path, monkeypatch, caplog) -> None:
    old = Lab(gated(tmp_path))
    await interrupted(old, lambda: old.ran and old.states == ["running"])
    end_round(old, "killed")
    (tmp_path / "go").touch()
    real = LocalLauncher.observe

    async def observe(self, handles):
        if any(spec.token == old.rows(t.attempts)[0]["token"] for spec, _ in handles):
            raise Transient("cannot be observed")
        return await real(self, handles)

    monkeypatch.setattr(LocalLauncher, "observe", observe)
    register(old.spec, new_round=True)
    Lab(old.spec)
    assert await asyncio.wait_for(monitor.fn("lab", "only"), 20) == {"lab": "only: 1 done"}
    assert "lab, round 1: left alone (cannot be observed)" in [r.message for r in caplog.records]
