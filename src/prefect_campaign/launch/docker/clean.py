"""Containers of a campaign that are over and were left behind: saved to their run dirs, then removed."""

import logging
import time
from collections.abc import Collection
from pathlib import Path

from prefect_campaign.launch.docker.container import CAMPAIGN, LEDGER, RUN_DIR, TOKEN
from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.record import finish
from prefect_campaign.launch.docker.secrets import drop_secrets, secrets_folder
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.model.errors import CampaignError

_MOST = 20
"""At once; the rest is for the next time."""
_UNSTARTED_SECONDS = 3600.0
"""A container that was made so long ago and never started is nobody's any more."""

log = logging.getLogger("prefect_campaign")


def clean(engine: DockerEngine, scope: Scope, followed: Collection[str]) -> list[str]:
    """Remove what is over of one campaign of one ledger; nothing that runs, and nothing of anybody else.

    Args:
        engine: where they are.
        scope: whose they must be.
        followed: tokens of attempts that are looked after by themselves.

    Returns:
        Tokens of those that are gone.

    Raises:
        Transient: the engine is not there.
    """
    gone = []
    found = engine.ours([TOKEN, f"{CAMPAIGN}={scope.campaign}", f"{LEDGER}={scope.ledger}"])
    for one in [one for one in found if _is_left(one, followed)][:_MOST]:
        token, run_dir = one["Labels"][TOKEN], one["Labels"].get(RUN_DIR, "")
        try:
            end = finish(engine, one["Id"], Path(run_dir))
        except (CampaignError, OSError) as error:
            log.warning("%s: its container stays for now: %s", token, error)
            continue
        if end is not None:
            drop_secrets(secrets_folder(token, run_dir))
            log.info("%s: its container was left behind (%s); it is saved and removed", token, end.state)
            gone.append(token)
    return gone


def _is_left(one: dict[str, object], followed: Collection[str]) -> bool:
    labels = one.get("Labels")
    if not isinstance(labels, dict) or labels.get(TOKEN) in followed:
        return False
    created = one.get("Created")
    old = isinstance(created, int) and time.time() - created > _UNSTARTED_SECONDS
    return one.get("State") in ("exited", "dead") or (one.get("State") == "created" and old)
