"""Probes on machines where no GPU is wholly free: they make do with less, or people hear why they wait."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, until
from contract.engine.test_probing import DRY, begun, events, finish, probed_seeds, quick
from contract.engine.test_vram import WAITS, eager, jobs, seeds
from driver import Driver, gpus

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
        with lab.setting.ledger.write() as connection:
            alerts.answer(connection, alert["id"], choice, by="ann", now=lab.setting.ledger.clock())
        await until(lambda: events(lab, "probed"))
        driver.stop(os.getpid())
    assert lab.states == ["done"]
    assert len(begun(tmp_path)) == (choice == "Continue anyway")
    assert ("skipped by a person" in events(lab, "probed")[0]) == (choice == "Skip the probe")
    (settled,) = [a for a in lab.rows(t.alerts) if a["syndrome"] == "probe_waits"]
    assert settled["effect"] == ("start" if choice == "Continue anyway" else "skip")
