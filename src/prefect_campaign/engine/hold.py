"""A dispatcher's hold on its campaign: all that it writes is fenced."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.ledger import campaigns
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Fenced, Transient

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


async def keep(hold: Hold) -> None:
    """Renew a hold for ever, whatever its dispatcher waits for; ends when another one took over."""
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        with suppress(Transient):  # a locked ledger: soon again
            try:
                with hold.write() as connection:
                    hold.renew(connection, hold.now())
            except Fenced:
                return


@contextmanager
def holding(ledger: Ledger, row: CampaignRow) -> Iterator[Hold]:
    """Hold a round of a campaign for as long as the block lasts, to work on the plan that the row names.

    Raises:
        Driven: another dispatcher is at work on this campaign.
        Fenced: the campaign has another plan by now.
    """
    with ledger.write() as connection:
        fence = campaigns.acquire(
            connection,
            row.id,
            owner=own_identity(),
            now=ledger.clock(),
            ttl=LEASE_SECONDS,
            alive=identity_alive,
            plan_hash=row.plan_hash,
        )
    try:
        yield Hold(ledger, row.id, fence)
    finally:
        with suppress(Fenced, Transient), ledger.fenced(row.id, fence) as connection:
            campaigns.release(connection, row.id)
