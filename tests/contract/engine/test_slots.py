"""Experiments without GPUs on this machine: each has the processors that it asks for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until

from prefect_campaign.blocks import DockerMachine, LocalMachine
from prefect_campaign.flows.review import cost_of
from prefect_campaign.ledger import tables as t

BEGINS = 'echo "$CAMPAIGN_EXP_ID" >>begun\n'
WAITS = "until [ -e go ]; do sleep 0.02; done\n"


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))


def cpu_campaign(folder: Path, script: str, cpus: int | None, *, points: int = 3, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    policy = {"max_parallel": None, **changes.pop("policy", {})}
    return campaign(folder, script, points=range(points), policy=policy, resources={"cpus": cpus}, **changes)


def begun(folder: Path) -> list[str]:
    path = folder / "begun"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("cpus", "policy", "at_once", "each"),
    [(2, {}, 2, 2), (3, {}, 1, 3), (99, {}, 1, 4), (None, {}, 4, 1), (2, {"max_parallel": 3}, 3, 1)],
    ids=["half", "not two of them", "more than there are", "not said", "a number that a person named"],
)
async def test_no_more_processors_are_given_out_than_there_are(
    tmp_path: Path, home: Any, cpus: int | None, policy: dict[str, Any], at_once: int, each: int
) -> None:
    lab = Lab(cpu_campaign(tmp_path, BEGINS + WAITS + REPORT, cpus, points=5, policy=policy))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(begun(tmp_path)) == at_once)
        await asyncio.sleep(0.2)
        leases = lab.rows(t.leases)
        assert len({r["token"] for r in leases}) == len(begun(tmp_path)) == at_once
        assert len({r["device"] for r in leases}) == len(leases) == at_once * each
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 5
    assert lab.rows(t.leases) == []
    assert {len(a["device"].split(",")) for a in lab.rows(t.attempts)} == {each}
    told = {e["why"] for e in lab.rows(t.events) if e["new"] == "launching"}
    assert all(f" {each} slots" in why if each > 1 else " slot-" in why for why in told)
    lab.settled()


async def test_slots_are_processors_unless_a_person_named_their_number() -> None:
    engine = {"base_url": "unix:///nowhere"}
    machines = DockerMachine(image="x", host=engine), DockerMachine(image="x", host=engine, slots=3)
    for machine, at_once in zip((LocalMachine(), LocalMachine(slots=3), *machines), (2, 3, 2, 3), strict=True):
        (view,) = await machine.launcher().look()
        assert view.slots // view.width(2) == at_once


async def test_the_cost_of_the_full_phase_counts_on_as_many_at_once(tmp_path: Path, home: Any) -> None:
    for cpus, at_once in ((2, 2), (None, 4), (99, 1)):
        lab = Lab(cpu_campaign(tmp_path, REPORT, cpus, name=f"c{cpus}"))
        assert (await cost_of(lab.setting)).slots == at_once


async def test_two_campaigns_have_no_more_than_there_is_together(tmp_path: Path, home: Any) -> None:
    wide = Lab(cpu_campaign(tmp_path / "wide", BEGINS + WAITS + REPORT, 3, name="wide"))
    small = Lab(cpu_campaign(tmp_path / "small", BEGINS + WAITS + REPORT, None, name="small"))
    async with wide.open() as one, small.open() as other:
        runs = [asyncio.create_task(one.run())]
        await until(lambda: begun(tmp_path / "wide"))
        runs.append(asyncio.create_task(other.run()))
        await until(lambda: begun(tmp_path / "small"))
        await asyncio.sleep(0.2)
        assert len(begun(tmp_path / "wide") + begun(tmp_path / "small")) == 2
        (tmp_path / "small" / "go").touch()
        (tmp_path / "wide" / "go").touch()
        await asyncio.wait_for(asyncio.gather(*runs), 60)
    assert wide.states + small.states == ["done"] * 6
