"""What is checked changes meanwhile: the code without a rest, or the launcher of the machine."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.engine.environment_lab import dry_campaign, quick_checks
from contract.engine.lab import REPORT, Lab, campaign

from prefect_campaign.engine import environment
from prefect_campaign.engine.host_check import HostCheck
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.devices import HostView

__all__ = ["quick_checks"]


async def test_a_working_folder_that_never_rests_does_not_hold_everything_for_ever(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "SWEEP_SECONDS", 0.3)  # a look for leftovers falls into each dry run
    spec = dry_campaign(tmp_path, "sleep 1.5", points=(1, 2))
    lab = Lab(spec)

    async def write() -> None:
        for n in itertools.count():
            (tmp_path / "work" / "log.txt").write_text(str(n))
            await asyncio.sleep(0.1)

    async with lab.open() as dispatcher:
        writing = asyncio.create_task(write())
        await asyncio.wait_for(dispatcher.run(), 60)
        writing.cancel()
    assert lab.states == ["done"] * 2
    assert {row["state"] for row in lab.rows(t.host_checks)} <= {"ready", "checking"}
    lab.settled()


async def test_a_machine_that_turns_to_a_launcher_without_checks_waits_for_none(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turning(LocalLauncher):
        """By containers at the first look, and without afterwards: as if their engine had gone."""

        turned = False

        async def look(self) -> list[HostView]:
            views = await super().look()
            if self.turned:
                return views
            self.turned = True
            return [replace(view, launcher="docker") for view in views]

    async def long(self: HostCheck) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(HostCheck, "run", long)
    lab = Lab(campaign(tmp_path, REPORT))
    async with lab.open(Turning(1)) as dispatcher:
        await asyncio.wait_for(dispatcher.run(), 60)
    assert lab.states == ["done"]
    lab.settled()
