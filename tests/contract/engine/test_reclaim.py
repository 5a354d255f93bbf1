"""Devices of a killed orchestrator: others get them once nothing of its attempts lives, and never before."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.engine.environment_lab import dry_campaign, dry_runs, quick_checks
from contract.engine.lab import Lab, campaign, until
from contract.engine.test_gpus import REPORT, SEES, WAITS, gpu_campaign
from driver import Driver, gpus
from sqlalchemy import update

from prefect_campaign.engine import hold, reclaim
from prefect_campaign.launch.either import HANDED_NAME, Either
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.closed import Closed, closed_attempts
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.records import AttemptSpec, Handle

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


async def killed_while_it_runs(dead: Lab) -> None:
    """The process that drives it dies; its job lives."""
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
        run = asyncio.create_task(killed.run())
        await until(lambda: dead.states == ["running"])
        run.cancel()
        await asyncio.wait([run])


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
    await killed_while_it_runs(dead)
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


class Preferred(LocalLauncher):
    """Stands for a launcher of another kind that the machine's jobs go to now."""

    name = "docker"

    async def look(self) -> list[HostView]:
        return [replace(view, launcher=self.name) for view in await super().look()]

    async def find(self, spec: AttemptSpec) -> Handle | None:
        return None


async def test_what_another_launcher_of_the_machine_started_is_given_back_too(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    await killed_while_it_runs(dead)
    async with alive.open(both()) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dispatcher.waits)
        for _ in range(3):
            assert await dispatcher._reclaim.reclaim() == []
        (tmp_path / "dead" / "go").touch()
        await asyncio.wait_for(run, 60)
    assert alive.states == ["done"]


async def test_what_a_launcher_that_is_not_at_hand_may_have_started_is_kept(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
    await killed.adopt()
    killed._record([], {})
    (attempt,) = dead.rows(t.attempts)
    note = Path(attempt["run_dir"]) / HANDED_NAME
    note.parent.mkdir(parents=True)
    note.write_text("local\nssh\n")
    async with alive.open(both()) as dispatcher:
        await dispatcher.adopt()
        await dispatcher._hosts.look()
        assert await dispatcher._reclaim.reclaim() == []
        note.write_text("local\ndocker\n")
        assert await dispatcher._reclaim.reclaim() == [attempt["token"]]


def both() -> Fleet:
    return Fleet({host_name(): Either([Preferred(), LocalLauncher()])})


async def test_the_ledger_tells_which_attempts_are_over(tmp_path: Path, home: Any) -> None:
    lab = Lab(campaign(tmp_path, REPORT, name="lab"))
    await lab.run()
    (row,) = lab.rows(t.attempts)
    url, token, later = lab.setting.ledger.url, row["token"], row["ended_at"] + 1
    assert closed_attempts(url, "lab", [token, "pc-x"], later) == {token: Closed(row["run_dir"], row["job_id"])}
    assert closed_attempts(url, "lab", [token], row["ended_at"]) == {}
    assert closed_attempts(url, "other", [token], later) == closed_attempts(url, "lab", [], later) == {}
    with lab.setting.ledger.write() as connection:
        connection.execute(update(t.attempts).values(state="running"))
    assert closed_attempts(url, "lab", [token], later) == {}


async def test_an_orchestrator_that_lives_keeps_what_it_has(tmp_path: Path, home: Any) -> None:
    dead, alive = labs(tmp_path)
    async with dead.open() as busy:
        await busy.adopt()
        busy._record([], {})
        async with alive.open() as dispatcher:
            await dispatcher.adopt()
            assert await dispatcher._reclaim.reclaim() == []
    assert len(dead.rows(t.leases)) == 1
