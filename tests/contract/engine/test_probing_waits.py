"""Probes on machines where no GPU is wholly free: they make do with less, or people hear why they wait."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, interrupted, until
from contract.engine.test_probing import DRY, begun, events, finish, probed_seeds, quick
from contract.engine.test_vram import WAITS, eager, jobs, seeds
from driver import Driver, gpus

from prefect_campaign import Sweep
from prefect_campaign.engine import probe_waits
from prefect_campaign.ledger import alerts
from prefect_campaign.ledger import tables as t

__all__ = ["eager", "quick"]

ALONE = {"policy": {"gpus": {}}}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_waits, "ALERT_SECONDS", 0.5)


@asynccontextmanager
async def neighbour(folder: Path, driver: Driver) -> AsyncIterator[None]:
    """Another campaign of ours has 4000 MiB of the only GPU, and shares it."""
    (folder / "other").mkdir()
    other = Lab(seeds(folder / "other", WAITS + REPORT, 1, name="other", resources={"vram_mb": 4000}))
    async with other.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: jobs(folder / "other"))
        (pid,) = jobs(folder / "other").values()
        driver.run(driver.uuids[0], pid, 3900)
        yield
        driver.stop(pid)
        (folder / "other" / "go").touch()
        await asyncio.wait_for(run, 60)


@asynccontextmanager
async def running(lab: Lab) -> AsyncIterator[None]:
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        yield
        await asyncio.wait_for(run, 60)


async def alert_of(lab: Lab) -> dict[str, Any]:
    await until(lambda: lab.rows(t.alerts))
    (alert,) = lab.rows(t.alerts)
    return alert


def answer(lab: Lab, alert: dict[str, Any], choice: str) -> None:
    with lab.setting.ledger.write() as connection:
        alerts.answer(connection, alert["id"], choice, by="ann", now=lab.setting.ledger.clock())


def leased(lab: Lab) -> list[tuple[int | None, int]]:
    return [(r["vram_mb"], r["shared"]) for r in lab.rows(t.leases) if "probe" in r["token"]]


async def test_with_a_number_of_the_user_it_shares_a_gpu_at_once(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    async with neighbour(tmp_path, driver):
        lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1, resources={"vram_mb": 6000}))
        async with running(lab):
            await until(lambda: begun(tmp_path))
            assert leased(lab) == [(6000, 1)]
            finish(tmp_path)
    assert lab.states == ["done"]
    assert lab.rows(t.alerts) == []


async def test_without_one_it_takes_what_is_free_after_a_while(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))  # of 24576 MiB
    async with neighbour(tmp_path, driver):
        lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))
        async with running(lab):
            await until(lambda: begun(tmp_path))
            assert leased(lab) == [((24576 - 4000) * 5 // 6, 1)]
            pid = int(begun(tmp_path)[0][0])
            driver.run(driver.uuids[0], pid, 3000)
            await until(lambda: events(lab, "probe_seen"))
            driver.stop(pid)
            finish(tmp_path)
    assert lab.states == ["done"]
    assert lab.rows(t.alerts) == []  # nothing is left to be asked


async def test_what_is_free_where_it_may_not_be_does_not_count(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    driver.run(driver.uuids[1], pid=os.getpid(), used_mb=500)  # a stranger, beside whom most is free
    async with neighbour(tmp_path, driver):
        lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))
        async with running(lab):
            await until(lambda: begun(tmp_path))
            assert leased(lab) == [((24576 - 4000) * 5 // 6, 1)]
            finish(tmp_path)
            driver.stop(os.getpid())
    assert lab.states == ["done"]


async def test_a_shape_that_is_not_offered_for_a_while_waits_on_with_its_answer(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(1))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    policy = {"gpus": {}, "max_parallel": 2}
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, sweep=Sweep.grid(x=[1, 2], seed=[0]), policy=policy))
    async with running(lab):
        await until(lambda: len(lab.rows(t.alerts)) == 2)
        first, second = sorted(lab.rows(t.alerts), key=lambda a: a["exp_id"])
        answer(lab, first, "Continue anyway")
        await until(lambda: begun(tmp_path))  # from now on there is room for one more, and the first is offered
        await asyncio.sleep(0.3)
        answer(lab, second, "Skip the probe")
        finish(tmp_path)
        await until(lambda: len(events(lab, "probed")) == 2)
        driver.stop(os.getpid())
    assert lab.states == ["done"] * 2
    assert len(begun(tmp_path)) == 1
    settled = {a["exp_id"]: a["effect"] for a in lab.rows(t.alerts) if a["syndrome"] == "probe_waits"}
    assert settled == {first["exp_id"]: "start", second["exp_id"]: "skip"}


async def test_a_question_of_an_earlier_process_is_settled_by_what_became_of_it(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(1))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    finish(tmp_path)
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 2, **ALONE))
    await interrupted(lab, lambda: lab.rows(t.alerts))
    driver.stop(os.getpid())
    await lab.run()
    assert lab.states == ["done"] * 2
    assert [a["effect"] for a in lab.rows(t.alerts) if a["syndrome"] == "probe_waits"] == ["start"]


@pytest.mark.parametrize("resources", [{}, {"vram_mb": 6000}])
@pytest.mark.parametrize("choice", ["Continue anyway", "Skip the probe"])
async def test_beside_a_stranger_it_runs_only_if_a_person_says_so(
    tmp_path: Path, home: Any, driver: Driver, choice: str, resources: dict[str, Any]
) -> None:
    driver.set(gpus(1))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    finish(tmp_path)
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1, resources=resources, **ALONE))
    async with running(lab):
        alert = await alert_of(lab)
        assert begun(tmp_path) == []
        assert "the probe of its memory waits: needs 1 " in alert["message"]
        answer(lab, alert, choice)
        await until(lambda: events(lab, "probed"))
        driver.stop(os.getpid())
    assert lab.states == ["done"]
    assert len(begun(tmp_path)) == (choice == "Continue anyway")
    assert ("skipped by a person" in events(lab, "probed")[0]) == (choice == "Skip the probe")
    (settled,) = [a for a in lab.rows(t.alerts) if a["syndrome"] == "probe_waits"]
    assert settled["effect"] == ("start" if choice == "Continue anyway" else "skip")
