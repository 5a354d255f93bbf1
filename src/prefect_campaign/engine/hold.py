"""A dispatcher's hold on its campaign: all that it writes is fenced."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Connection

from prefect_campaign.ledger import campaigns
from prefect_campaign.ledger.store import Ledger

LEASE_SECONDS = 30.0
"""A hold that is not renewed for so long may be taken by another dispatcher."""


@dataclass(frozen=True)
class Hold:
    """One round of a campaign in the ledger, held under a fencing token."""

    ledger: Ledger
    campaign_id: int
    fence: int

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.ledger.clock()

    def write(self) -> AbstractContextManager[Connection]:
        """One transaction.

        Raises:
            Fenced: another dispatcher took over; nothing was written.
        """
        return self.ledger.fenced(self.campaign_id, self.fence)

    def renew(self, connection: Connection, now: float) -> None:
        """Keep the hold for another `LEASE_SECONDS`."""
        campaigns.renew(connection, self.campaign_id, now=now, ttl=LEASE_SECONDS)
