"""The clean-tree rule where a campaign meets it: warned about in the pilot, kept before the full phase."""

import asyncio
import logging
from contextlib import suppress

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_campaign.engine.setting import Setting
from prefect_campaign.engine.tree import FULL_SECONDS, Tree, refusal, tree_of
from prefect_campaign.ledger.events import ORIGIN, add_event
from prefect_campaign.model.errors import Transient

CHANGE_SECONDS = 60.0
"""How often the work tree is looked at while the full phase runs."""


def warn_of_changes(tree: Tree) -> None:
    """Say in the log what no commit will hold of the pilot's code."""
    for note in tree.notes:
        _log().warning("%s: %s; the pilot runs all the same", tree.folder, note)


async def tree_for_full(setting: Setting) -> tuple[Tree, str]:
    """The work tree, and why the full phase must not start anything from it; empty if it may."""
    tree = await asyncio.to_thread(tree_of, setting.campaign, FULL_SECONDS)
    refused = refusal(setting.campaign, tree)
    if refused:
        _log().error("campaign %s: %s", setting.row.name, refused)
    else:
        for note in tree.notes:
            _log().warning("%s: %s; the full phase runs all the same", tree.folder, note)
    return tree, refused


async def note_changes(setting: Setting) -> None:
    """While the full phase runs, put on record what becomes of its code; until cancelled.

    What starts from now on runs the changed code: people who edit where experiments run must hear of it.
    """
    last: Tree | None = None
    while True:
        now = await setting.tree()
        if not now.problem:
            if last is not None and (now.name, now.changed) != (last.name, last.changed):
                told = "; ".join([f"changed while it ran, to {now.name or 'no commit'}", *now.notes])
                _log().warning("%s: the code of the full phase has %s", now.folder, told)
                with suppress(Transient):  # the ledger is busy; it is in the log
                    record_origin(setting, now, told)
            last = now
        await asyncio.sleep(CHANGE_SECONDS)


def record_origin(setting: Setting, tree: Tree, told: str) -> None:
    """Put on record which code the full phase runs, for its report."""
    with setting.ledger.write() as connection:
        data = {"commit": tree.name, "changed": tree.changed[:100], "notes": tree.notes}
        add_event(connection, setting.row.id, setting.ledger.clock(), "campaign", ORIGIN, why=told, data=data)


def _log() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("prefect_campaign")
