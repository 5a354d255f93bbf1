"""The clean-tree rule at the full phase: refused or put on record, and what changes later is put on record too."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from unit.gate_lab import asked

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.export import export
from prefect_campaign.engine.setting import Setting, open_setting, register
from prefect_campaign.ledger import gates, queries
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.tasks import tree as rule
from prefect_campaign.tasks.steps import enter_full
from prefect_campaign.tasks.tree import note_changes, tree_for_full


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def setting_in(work: Path, **policy: Any) -> Setting:
    return register(
        Campaign(
            name="demo",
            command="true {lr}",
            sweep=Sweep.grid(lr=[1, 2]),
            objective=Objective(metric="acc"),
            workdir=str(work),
            policy=policy,
        )
    )


def approved(setting: Setting, commit: str | None) -> gates.Question:
    """An answer to a question that showed this commit."""
    one = asked(setting, answer="CONTINUE")
    with setting.ledger.write() as connection:
        connection.execute(t.approvals.update().values(cost={"commit": commit}))
        found = gates.question(connection, setting.row.id, setting.plan.plan_hash)
    assert found
    assert found.id == one.id
    return found


def origins(setting: Setting) -> list[str]:
    with Reader(setting.ledger.url) as reader:
        return queries.code_origins(reader, setting.row.id)


async def test_changes_refuse_until_they_are_committed(home: Home, work: Path) -> None:
    setting = setting_in(work)
    (work / "a.py").write_text("2\n")
    _, refused = await tree_for_full(setting)
    assert "a.py" in refused
    assert open_setting("demo").row.phase == "pilot"
    git(work, "commit", "-qam", "second")
    tree, refused = await tree_for_full(setting)
    assert refused == ""
    assert tree.commit == git(work, "rev-parse", "HEAD")


async def test_the_commit_and_the_one_that_was_approved_are_on_record(home: Home, work: Path, caplog: Any) -> None:
    setting = setting_in(work)
    before = git(work, "rev-parse", "HEAD")
    answer = approved(setting, f"{before}-dirty")
    (work / "a.py").write_text("2\n")
    git(work, "commit", "-qam", "second")
    tree, _ = await tree_for_full(setting)
    enter_full(setting, answer, tree)
    assert open_setting("demo").row.phase == "full"
    told = f"{git(work, 'rev-parse', 'HEAD')}, approved at {before}-dirty"
    assert origins(setting) == [told]
    assert told in caplog.text
    enter_full(setting, answer, tree)
    assert origins(setting) == [told]
    export(setting.ledger, setting.campaign, home.path / "out")
    assert told in (home.path / "out" / "report.md").read_text()


@pytest.mark.parametrize("shown", [None, "same"])
async def test_the_approved_commit_itself_needs_no_word(home: Home, work: Path, caplog: Any, shown: str | None) -> None:
    setting = setting_in(work)
    commit = git(work, "rev-parse", "HEAD")
    tree, _ = await tree_for_full(setting)
    enter_full(setting, approved(setting, commit if shown else None), tree)
    assert origins(setting) == [commit]
    assert caplog.text == ""


async def test_allowed_changes_are_named_in_the_report(home: Home, work: Path) -> None:
    setting = setting_in(work, allow_dirty=True)
    (work / "a.py").write_text("2\n")
    tree, refused = await tree_for_full(setting)
    assert refused == ""
    enter_full(setting, approved(setting, tree.name), tree)
    export(setting.ledger, setting.campaign, home.path / "out")
    assert "-dirty; local changes in a.py" in (home.path / "out" / "report.md").read_text()


async def test_what_changes_while_it_runs_is_put_on_record(home: Home, work: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(rule, "CHANGE_SECONDS", 0.05)
    setting = setting_in(work)
    looks: list[str | None] = []
    look = Setting.tree

    async def counted(self: Setting) -> Any:
        found = await look(self)
        looks.append(found.name)
        return found

    monkeypatch.setattr(Setting, "tree", counted)
    watching = asyncio.create_task(note_changes(setting))

    async def looked(times: int) -> None:
        until = len(looks) + times
        while len(looks) < until:
            await asyncio.sleep(0.01)

    await looked(2)
    assert origins(setting) == []
    (work / "a.py").write_text("2\n")
    await looked(3)
    commit = git(work, "rev-parse", "HEAD")
    assert origins(setting) == [f"changed while it ran, to {commit}-dirty; local changes in a.py"]
    watching.cancel()


def test_a_plan_that_allows_changes_is_another_plan(home: Home, work: Path) -> None:
    first = setting_in(work)
    approved(first, None)
    second = setting_in(work, allow_dirty=True)
    assert second.row.id == first.row.id
    with second.ledger.read() as connection:
        assert not gates.approved(connection, second.row.id, second.plan.plan_hash)
