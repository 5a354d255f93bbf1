"""Leases whose campaign nobody drives any more."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from prefect_campaign.ledger import probes
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.leases import release

LONG_SECONDS = 600.0
"""A process whose hold is over for so long is taken to be gone, also on another machine, where nobody can look."""


@dataclass(frozen=True)
class Orphan:
    """An attempt, or a probe, with devices whose campaign nobody drives."""

    token: str
    campaign_id: int
    exp_id: str
    host: str
    launcher: str
    spec: dict[str, Any]
    handle: dict[str, Any] | None
    fence: int
    """Of its campaign; it grows as soon as somebody drives it again."""
    probe: str = ""
    """Key of the shape whose memory it probes; empty: it is an attempt."""


def orphans(
    connection: Connection, hosts: Iterable[str], campaign_id: int, *, now: float, alive: Callable[[str], bool]
) -> list[Orphan]:
    """Attempts and probes that hold devices of these hosts for other campaigns, which nobody drives.

    Args:
        connection: a transaction.
        hosts: names of hosts.
        campaign_id: the campaign whose own leases are none of these.
        now: seconds since the epoch.
        alive: whether a dispatcher's process lives.
    """
    a, lease = t.attempts.c, t.leases.c
    leased = select(lease.token, lease.campaign_id).where(lease.host.in_(list(hosts)), lease.campaign_id != campaign_id)
    owners = {row.token: row.campaign_id for row in connection.execute(leased)}
    rows = connection.execute(select(t.campaigns).where(t.campaigns.c.id.in_(set(owners.values())))).mappings()
    undriven = {row["id"]: row["fence"] for row in rows if _undriven(CampaignRow(**row), now, alive)}
    held = [token for token, owner in owners.items() if owner in undriven]
    columns = (a.token, a.campaign_id, a.exp_id, a.host, a.launcher, a.spec, a.handle)
    attempts = connection.execute(select(*columns).where(a.token.in_(held))).mappings()
    found = [Orphan(**row, fence=undriven[row["campaign_id"]]) for row in attempts]
    others = set(held) - {one.token for one in found}
    return found + [_probe(row, undriven) for row in probes.begun(connection, undriven, others)]


def release_orphan(connection: Connection, one: Orphan, *, now: float) -> bool:
    """Give back what one of them holds; False if somebody drives its campaign since then."""
    c = t.campaigns.c
    still = select(c.id).where(c.id == one.campaign_id, c.fence == one.fence).with_for_update()
    if connection.execute(still).first() is None:
        return False
    why = "its dispatcher is gone, and nothing of it lives"
    if one.probe:
        probes.give_up(connection, one.campaign_id, one.exp_id, one.token, one.probe, why, now)
        return True
    release(connection, [one.token])
    add_event(connection, one.campaign_id, now, "reclaim", "lease", "held", "released", why, one.exp_id)
    return True


def _probe(row: dict[str, Any], undriven: Mapping[int, int]) -> Orphan:
    data = row["data"]
    spec = data["spec"]
    return Orphan(
        token=spec["token"],
        campaign_id=row["campaign_id"],
        exp_id=row["exp_id"],
        host=spec["host"],
        launcher=data.get("launcher", ""),
        spec=spec,
        handle=None,
        fence=undriven[row["campaign_id"]],
        probe=data["key"],
    )


def _undriven(row: CampaignRow, now: float, alive: Callable[[str], bool]) -> bool:
    """Whether nobody drives a campaign: a process that was suspended lives, though its hold is over."""
    return row.owner is None or not alive(row.owner) or (row.owner_expires or 0.0) < now - LONG_SECONDS
