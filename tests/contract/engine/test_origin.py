"""Each attempt records the commit that it ran from, also when people commit or edit meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until
from repository import git, head, repository

from prefect_campaign.engine import origin


def seen_again(code: origin.Origin) -> str:
    """What is known of the commit, while it is read again and again, as every placement does."""
    code.refresh()
    return str(code.name)


async def test_a_commit_in_the_middle_is_recorded_with_those_that_start_later(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "AGAIN_SECONDS", 0.0)
    work = tmp_path / "work"
    work.mkdir()
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done\n{REPORT}"
    lab = Lab(campaign(work, script, points=[1, 2, 3], policy={"max_parallel": 1}))
    (work / "code").write_text("1")
    first = repository(work, "code")
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.states.count("running") == 1)
        (work / "code").write_text("2")
        git(work, "commit", "-qam", "two")
        (work / "code").write_text("3")
        await until(lambda: seen_again(dispatcher._planner.origin).endswith("-dirty"))
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    commits = [v.git_commit for v in lab.views]
    assert commits[0] == first
    assert commits[1:] == [f"{head(work)}-dirty"] * 2
