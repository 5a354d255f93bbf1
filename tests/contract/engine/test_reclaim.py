"""Devices of a killed orchestrator: others get them once nothing of its attempts lives, and never before."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from contract.engine.environment_lab import dry_campaign, dry_runs, quick_checks
from contract.engine.lab import Lab, until
from contract.engine.test_gpus import REPORT, SEES, WAITS, gpu_campaign
from driver import Driver, gpus

from prefect_campaign.engine import hold, reclaim
from prefect_campaign.ledger import tables as t

__all__ = ["quick_checks"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(reclaim, "EVERY_SECONDS", 0.1)
    driver.set(gpus(1))


@contextmanager
def as_a_process_that_dies() -> Iterator[None]:
    """Dispatchers that are opened here belong to a process that is gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold, "own_identity", lambda: f"{socket.gethostname()}:{2**22 + 1}:1.00")
        yield


def labs(folder: Path) -> tuple[Lab, Lab]:
    for name in ("dead", "alive"):
        (folder / name).mkdir()
    dead = Lab(gpu_campaign(folder / "dead", SEES + WAITS + REPORT, points=1, name="dead"))
    return dead, Lab(gpu_campaign(folder / "alive", SEES + REPORT, points=1, name="alive"))


async def test_what_was_never_started_gives_its_gpu_back(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
    await killed.adopt()
    killed._record([], {})
    assert len(dead.rows(t.leases)) == 1
    await alive.run()
    assert alive.states == ["done"]
    # The attempt itself is as it was; whoever goes on has it placed anew, and it runs once.
    assert [v.state for v in dead.views] == ["launching"]
    (tmp_path / "dead" / "go").touch()
    await dead.run()
    assert dead.states == ["done"]
    assert len(dead.ran) == 1
    dead.settled()


async def test_a_dry_run_gets_what_was_never_started(tmp_path: Path, home: Any) -> None:
    """Until its check has passed a host is shut for experiments, but not for this."""
    (tmp_path / "dead").mkdir()
    dead = Lab(gpu_campaign(tmp_path / "dead", REPORT, points=1, name="dead"))
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
    await killed.adopt()
    killed._record([], {})
    alive = Lab(dry_campaign(tmp_path, name="alive", resources={"gpus": 1}))
    await alive.run()
    assert alive.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1


async def test_a_job_that_lives_keeps_its_gpu_until_it_is_over(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
        run = asyncio.create_task(killed.run())
        await until(lambda: dead.states == ["running"])
        run.cancel()
        await asyncio.wait([run])
    async with alive.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dispatcher.waits)
        for _ in range(3):
            assert await dispatcher._reclaim.reclaim() == []
        assert alive.ran == []
        (tmp_path / "dead" / "go").touch()
        await asyncio.wait_for(run, 60)
    assert alive.states == ["done"]
    await dead.run()
    assert dead.states == ["done"]
    assert len(dead.ran) == 1


async def test_an_orchestrator_that_lives_keeps_what_it_has(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    async with dead.open() as busy:
        await busy.adopt()
        busy._record([], {})
        async with alive.open() as dispatcher:
            await dispatcher.adopt()
            assert await dispatcher._reclaim.reclaim() == []
    assert len(dead.rows(t.leases)) == 1
