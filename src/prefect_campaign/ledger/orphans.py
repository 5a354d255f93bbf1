"""Leases whose campaign nobody drives any more."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.leases import release


@dataclass(frozen=True)
class Orphan:
    """An attempt with devices whose campaign nobody drives."""

    token: str
    campaign_id: int
    exp_id: str
    host: str
    launcher: str
    spec: dict[str, Any]
    handle: dict[str, Any] | None
    fence: int
    """Of its campaign; it grows as soon as somebody drives it again."""


def orphans(
    connection: Connection, hosts: Iterable[str], campaign_id: int, *, now: float, alive: Callable[[str], bool]
) -> list[Orphan]:
    """Attempts that hold devices of these hosts for other campaigns, which nobody drives.

    Args:
        connection: a transaction.
        hosts: names of hosts.
        campaign_id: the campaign whose own leases are none of these.
        now: seconds since the epoch.
        alive: whether a dispatcher's process lives.
    """
    a = t.attempts.c
    held = select(t.leases.c.token).where(t.leases.c.host.in_(list(hosts)), t.leases.c.campaign_id != campaign_id)
    columns = (a.token, a.campaign_id, a.exp_id, a.host, a.launcher, a.spec, a.handle)
    found = [dict(row) for row in connection.execute(select(*columns).where(a.token.in_(held))).mappings()]
    owners = {row["campaign_id"] for row in found}
    rows = connection.execute(select(t.campaigns).where(t.campaigns.c.id.in_(owners))).mappings()
    undriven = {row["id"]: row["fence"] for row in rows if CampaignRow(**row).driver(now, alive) is None}
    return [Orphan(**row, fence=undriven[row["campaign_id"]]) for row in found if row["campaign_id"] in undriven]


def release_orphan(connection: Connection, one: Orphan, *, now: float) -> bool:
    """Give back what such an attempt holds; False if somebody drives its campaign since then."""
    c = t.campaigns.c
    still = select(c.id).where(c.id == one.campaign_id, c.fence == one.fence).with_for_update()
    if connection.execute(still).first() is None:
        return False
    release(connection, [one.token])
    why = "its dispatcher is gone, and nothing of it lives"
    add_event(connection, one.campaign_id, now, "reclaim", "lease", "held", "released", why, one.exp_id)
    return True
