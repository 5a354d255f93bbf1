"""The clean-tree rule at the full phase: refused or put on record, and what changes later is put on record too."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ledgers import prepare
from repository import git, head, work
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

__all__ = ["work"]


def setting_in(work: Path, **policy: Any) -> Setting:
    prepare(Home.locate())
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
    (work / "train.py").write_text("2\n")
    _, refused = await tree_for_full(setting)
    assert "train.py" in refused
    assert open_setting("demo").row.phase == "pilot"
    git(work, "commit", "-qam", "second")
    tree, refused = await tree_for_full(setting)
    assert refused == ""
    assert tree.commit == head(work)


async def test_the_commit_and_the_one_that_was_approved_are_on_record(home: Home, work: Path, caplog: Any) -> None:
    setting = setting_in(work)
    before = head(work)
    answer = approved(setting, f"{before}-dirty")
    (work / "train.py").write_text("2\n")
    git(work, "commit", "-qam", "second")
    tree, _ = await tree_for_full(setting)
    enter_full(setting, answer, tree)
    assert open_setting("demo").row.phase == "full"
    told = f"{head(work)}, approved at {before}-dirty"
    assert origins(setting) == [told]
    assert told in caplog.text
    enter_full(setting, answer, tree)
    assert origins(setting) == [told]
    export(setting.ledger, setting.campaign, home.path / "out")
    assert told in (home.path / "out" / "report.md").read_text()


@pytest.mark.parametrize("shown", [None, "same"])
async def test_the_approved_commit_itself_needs_no_word(home: Home, work: Path, caplog: Any, shown: str | None) -> None:
    setting = setting_in(work)
    commit = head(work)
    tree, _ = await tree_for_full(setting)
    enter_full(setting, approved(setting, commit if shown else None), tree)
    assert origins(setting) == [commit]
    assert caplog.text == ""


async def test_allowed_changes_are_named_in_the_report(home: Home, work: Path) -> None:
    setting = setting_in(work, allow_dirty=True)
    (work / "train.py").write_text("2\n")
    tree, refused = await tree_for_full(setting)
    assert refused == ""
    enter_full(setting, approved(setting, tree.name), tree)
    export(setting.ledger, setting.campaign, home.path / "out")
    assert "-dirty; local changes in train.py" in (home.path / "out" / "report.md").read_text()


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
    (work / "train.py").write_text("2\n")
    await looked(3)
    commit = head(work)
    assert origins(setting) == [f"changed while it ran, to {commit}-dirty; local changes in train.py"]
    watching.cancel()


def test_a_plan_that_allows_changes_is_another_plan(home: Home, work: Path) -> None:
    first = setting_in(work)
    approved(first, None)
    second = setting_in(work, allow_dirty=True)
    assert second.row.id == first.row.id
    with second.ledger.read() as connection:
        assert not gates.approved(connection, second.row.id, second.plan.plan_hash)
