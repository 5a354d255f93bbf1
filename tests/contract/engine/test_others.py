"""Campaigns that want several GPUs or processors at once, and others that want few: all get them in the end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, until
from contract.engine.test_gpus import SEES, gpu_campaign, seen
from contract.engine.test_slots import BEGINS, WAITS, begun, cpu_campaign
from driver import Driver, gpus

from prefect_campaign.ledger import tables as t


def waits_for_long(lab: Lab) -> None:
    """For new ones it would not have to wait at all."""
    with lab.setting.ledger.write() as connection:
        mine = t.experiments.update().where(t.experiments.c.campaign_id == lab.setting.row.id)
        connection.execute(mine.values(updated_at=0.0))


async def test_many_small_ones_do_not_starve_a_big_one_of_another_campaign(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(2))
    for name in ("big", "small"):
        (tmp_path / name).mkdir()
    small = Lab(gpu_campaign(tmp_path / "small", SEES + "sleep 0.3\n" + REPORT, points=12, name="small"))
    big = Lab(gpu_campaign(tmp_path / "big", SEES + REPORT, count=2, points=1, name="big"))
    async with small.open() as busy, big.open() as waiting:
        runs = [asyncio.create_task(busy.run())]
        await until(lambda: len(seen(tmp_path / "small")) == 2)
        waits_for_long(big)
        runs.append(asyncio.create_task(waiting.run()))
        await until(lambda: big.states == ["done"], 60)
        assert small.states.count("done") < 12
        await asyncio.wait_for(asyncio.gather(*runs), 60)
    assert small.states == ["done"] * 12


async def test_two_campaigns_that_wait_for_the_same_do_not_wait_for_each_other(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(2))
    for name in ("first", "one", "two"):
        (tmp_path / name).mkdir()
    first = Lab(gpu_campaign(tmp_path / "first", SEES + "sleep 1\n" + REPORT, count=2, points=1, name="first"))
    both = [Lab(gpu_campaign(tmp_path / n, SEES + REPORT, count=2, points=2, name=n)) for n in ("one", "two")]
    with first.setting.ledger.write() as connection:  # whatever the clock says: within one hour
        for number, lab in enumerate(both):
            mine = t.experiments.update().where(t.experiments.c.campaign_id == lab.setting.row.id)
            connection.execute(mine.values(updated_at=10.0 + number))
    async with first.open() as busy, both[0].open() as one, both[1].open() as two:
        runs = [asyncio.create_task(busy.run())]
        await until(lambda: seen(tmp_path / "first"))
        runs += [asyncio.create_task(one.run()), asyncio.create_task(two.run())]
        await asyncio.wait_for(asyncio.gather(*runs), 30)
    assert [lab.states for lab in both] == [["done"] * 2] * 2


async def test_many_small_ones_do_not_starve_a_wide_one_of_another_campaign(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    small = Lab(cpu_campaign(tmp_path / "small", BEGINS + "sleep 0.$(($1 % 4 + 3))\n" + REPORT, None, points=40))
    wide = Lab(cpu_campaign(tmp_path / "wide", BEGINS + REPORT, 4, points=1, name="wide"))
    async with small.open() as busy, wide.open() as waiting:
        runs = [asyncio.create_task(busy.run())]
        await until(lambda: len(begun(tmp_path / "small")) == 4)
        waits_for_long(wide)
        runs.append(asyncio.create_task(waiting.run()))
        await until(lambda: "needs 4 free slots" in waiting.waits)
        await until(lambda: wide.states == ["done"], 60)
        assert small.states.count("done") < 30
        await asyncio.wait_for(asyncio.gather(*runs), 60)
    assert small.states == ["done"] * 40


async def test_two_wide_campaigns_do_not_leave_the_processors_to_each_other(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    first = Lab(cpu_campaign(tmp_path / "first", BEGINS + WAITS + REPORT, 1, points=1, name="first"))
    both = [Lab(cpu_campaign(tmp_path / n, BEGINS + REPORT, 4, points=2, name=n)) for n in ("one", "two")]
    async with first.open() as busy, both[0].open() as one, both[1].open() as two:
        runs = [asyncio.create_task(busy.run())]
        await until(lambda: begun(tmp_path / "first"))
        runs += [asyncio.create_task(one.run()), asyncio.create_task(two.run())]
        await until(lambda: len(first.rows(t.waits)) == 2)
        (tmp_path / "first" / "go").touch()
        await asyncio.wait_for(asyncio.gather(*runs), 60)
    assert [lab.states for lab in both] == [["done"] * 2] * 2
