"""Short runs that show how much GPU memory a shape needs: in the record of events, with a lease while they run."""

from typing import Any

from sqlalchemy import Connection

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


def begin(
    connection: Connection, campaign_id: int, exp_id: str, claim: Claim, data: dict[str, Any], now: float
) -> None:
    """Lease whole GPUs for a probe and write down what is about to run.

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
    connection: Connection, campaign_id: int, exp_id: str, token: str, data: dict[str, Any], why: str, now: float
) -> None:
    """A probe is over: its GPUs come back, and what it showed is on record."""
    release(connection, [token])
    add_event(connection, campaign_id, now, "dispatcher", ENDED, why=why, exp_id=exp_id, data=data)
