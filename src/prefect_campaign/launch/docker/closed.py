"""Containers that run though their attempts are over on record: ended, since nobody else will."""

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefect_campaign.launch.docker.cancel import end_container
from prefect_campaign.launch.docker.container import CAMPAIGN, LEDGER, RUN_DIR, TOKEN
from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.record import read_container
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.ledger.closed import Closed, closed_attempts
from prefect_campaign.model.errors import CampaignError

_SETTLED_SECONDS = 300.0
"""Whoever put the end of an attempt on record has so long to end its container."""
_GRACE_SECONDS = 10.0
_ALIVE = frozenset({"running", "paused", "restarting"})

log = logging.getLogger("prefect_campaign")


def end_closed(engine: DockerEngine, scope: Scope, followed: Collection[str]) -> list[str]:
    """End what still runs of attempts of one campaign that are over on record; what is left of it is `clean`ed later.

    A container is ended only if its labels are those of this campaign and this ledger, and the ledger says of an
    attempt with its token and run dir that it is over, and that its job, or the one noted in the run dir, is this one.

    Args:
        engine: where they are.
        scope: whose they must be.
        followed: tokens of attempts that are looked after by themselves.

    Returns:
        Tokens of those that were ended.
    """
    gone: list[str] = []
    if not scope.url:
        return gone
    try:
        found = engine.ours([TOKEN, f"{CAMPAIGN}={scope.campaign}", f"{LEDGER}={scope.ledger}"])
        alive = [one for one in found if one.get("State") in _ALIVE and _is_in(scope, one.get("Labels"), followed)]
        tokens = {one["Labels"][TOKEN] for one in alive}
        before = time.time() - _SETTLED_SECONDS
        closed = closed_attempts(scope.url, scope.campaign, tokens, before) if tokens else {}
    except CampaignError as error:
        log.warning("containers of attempts that are over cannot be looked for: %s", error)
        return gone
    for one in alive:
        token, run_dir, container = one["Labels"][TOKEN], one["Labels"].get(RUN_DIR, ""), one["Id"]
        if token not in closed or not _is_of(closed[token], run_dir, container):
            continue
        log.warning("%s: is over on record, but its container runs; it is ended", token)
        try:
            end_container(engine, token, run_dir, container, _GRACE_SECONDS)
        except CampaignError as error:
            log.warning("%s", error)
            continue
        gone.append(token)
    return gone


def _is_in(scope: Scope, labels: Mapping[str, Any] | None, followed: Collection[str]) -> bool:
    """Whether it is the campaign's, whatever the engine made of the filter."""
    told = labels or {}
    ours = told.get(CAMPAIGN) == scope.campaign and told.get(LEDGER) == scope.ledger
    return ours and bool(told.get(TOKEN)) and told[TOKEN] not in followed


def _is_of(attempt: Closed, run_dir: str, container: str) -> bool:
    """Whether a container is the very job of an attempt."""
    noted = read_container(Path(run_dir)).handle
    job_id = attempt.job_id or (noted.job_id if noted else "")
    return bool(run_dir) and attempt.run_dir == run_dir and job_id == container
