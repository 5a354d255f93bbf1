"""The clean-tree rule where a campaign meets it: warned about in the pilot, kept before the full phase."""

import asyncio
import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_campaign.engine.setting import Setting
from prefect_campaign.engine.tree import FULL_SECONDS, Tree, refusal, tree_of


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


def _log() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("prefect_campaign")
