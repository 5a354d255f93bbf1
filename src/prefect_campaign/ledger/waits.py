"""What each campaign waits for most: so that many small experiments of one do not starve a big one of another."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, insert, select

from prefect_campaign.ledger import tables as t

FRESH_SECONDS = 30.0
"""What was told longer ago is of a campaign that nobody drives."""


@dataclass(frozen=True)
class Wait:
    """The experiment of a campaign that waits longest for several GPUs, or slots."""

    campaign_id: int
    exp_id: str
    gpus: int
    slots: int
    """If it wants no GPUs."""
    vram_mb: int | None
    hosts: Sequence[str]
    since: float
    """Seconds since the epoch."""


def tell(connection: Connection, campaign_id: int, wait: Wait | None, *, now: float) -> None:
    """Let others know what a campaign waits for now; None: for nothing."""
    connection.execute(delete(t.waits).where(t.waits.c.campaign_id == campaign_id))
    if wait is not None:
        connection.execute(insert(t.waits).values(told_at=now, **vars(wait)))


def of_others(connection: Connection, campaign_id: int, hosts: Collection[str], *, now: float) -> list[Wait]:
    """What other campaigns wait for on some of these hosts."""
    rows = connection.execute(_others_statement(), {"campaign": campaign_id, "after": now - FRESH_SECONDS})
    return [wait for wait in (Wait(*row) for row in rows) if set(wait.hosts) & set(hosts)]


# Built once: making a statement costs SQLAlchemy more than running it.


@cache
def _others_statement() -> Select[Any]:
    w = t.waits.c
    query = select(w.campaign_id, w.exp_id, w.gpus, w.slots, w.vram_mb, w.hosts, w.since)
    return query.where(w.campaign_id != bindparam("campaign"), w.told_at > bindparam("after"))
