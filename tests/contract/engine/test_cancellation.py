"""A dispatcher that is told to stop stops, whatever else happens at that moment."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancellation_that_comes_with_news_is_not_lost(tmp_path: Path, home: Any, steps: int) -> None:
    lab = Lab(campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done\n" + REPORT))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.states == ["running"] and dispatcher._watch.woken._waiters)
        dispatcher._watch.woken.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        run.cancel()
        (tmp_path / "go").touch()
        await asyncio.wait([run])
        assert run.cancelled()
    await lab.run()
    assert lab.states == ["done"]
