"""Short runs that show how much GPU memory a shape needs: in the record of events, with a lease while they run."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, select

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.leases import Claim, release, take
from prefect_campaign.ledger.reading import Reader

BEGUN, SEEN, ENDED = "probe", "probe_seen", "probed"


def events_of_campaign(reader: Reader, name: str) -> list[dict[str, Any]]:
    """All about probes of all rounds of a campaign, oldest first: campaign_id, exp_id, at, kind, data."""
    return reader.rows(
        "SELECT e.campaign_id, e.exp_id, e.at, e.kind, e.data FROM events e JOIN campaigns c ON c.id = e.campaign_id "
        "WHERE c.name = :name AND e.kind IN (:begun, :seen, :ended) ORDER BY e.id",
        name=name,
        begun=BEGUN,
        seen=SEEN,
        ended=ENDED,
    )


def begun(connection: Connection, campaign_ids: Collection[int], tokens: Collection[str]) -> list[dict[str, Any]]:
    """What was written down of the probes with these tokens before they started: campaign_id, exp_id, data.

    Args:
        connection: a transaction.
        campaign_ids: the rounds that they belong to.
        tokens: theirs.
    """
    if not tokens:
        return []
    e = t.events.c
    query = select(e.campaign_id, e.exp_id, e.data).where(e.campaign_id.in_(list(campaign_ids)), e.kind == BEGUN)
    # Tokens are compared here: each database has another way to look into JSON.
    rows = (dict(row) for row in connection.execute(query.order_by(e.id)).mappings())
    return [row for row in rows if row["data"]["spec"]["token"] in tokens]


def begin(
    connection: Connection, campaign_id: int, exp_id: str, claim: Claim, data: dict[str, Any], now: float
) -> None:
    """Lease GPUs for a probe and write down what is about to run.

    Raises:
        Stale: somebody has one of them.
    """
    take(connection, campaign_id, [claim], now=now)
    why = f"memory of its shape is probed on {claim.host} {', '.join(claim.devices)}"
    add_event(connection, campaign_id, now, "dispatcher", BEGUN, why=why, exp_id=exp_id, data=data)


def seen(connection: Connection, campaign_id: int, exp_id: str, data: dict[str, Any], now: float) -> None:
    """A probe was seen to take more memory than before."""
    add_event(connection, campaign_id, now, "dispatcher", SEEN, why=f"{data['peak']} MiB", exp_id=exp_id, data=data)


def end(
    connection: Connection,
    campaign_id: int,
    exp_id: str,
    token: str,
    data: dict[str, Any],
    why: str,
    now: float,
    *,
    who: str = "dispatcher",
) -> None:
    """A probe is over: its GPUs come back, and what it showed is on record."""
    release(connection, [token])
    add_event(connection, campaign_id, now, who, ENDED, why=why, exp_id=exp_id, data=data)


def give_up(connection: Connection, campaign_id: int, exp_id: str, token: str, key: str, why: str, now: float) -> None:
    """Nothing of a probe lives and its dispatcher is gone: its GPUs come back, and its shape is probed anew."""
    data = {"key": key, "token": token, "peak": None, "stopped": True}
    end(connection, campaign_id, exp_id, token, data, why, now, who="reclaim")
