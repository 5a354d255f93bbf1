"""Which number each GPU of each host had when it was first seen there."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, delete, insert, select

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.leases import lock
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.devices import Card
from prefect_campaign.model.errors import Refused


def keep(ledger: Ledger, host: str, change: Callable[[Sequence[Card]], Sequence[Card]]) -> Sequence[Card]:
    """Put a host's cards on record as `change` makes them of those that are; most often nothing changes."""
    with ledger.read() as connection:
        before = _of(connection, host)
    if (after := change(before)) == before:
        return after
    with ledger.write() as connection:
        lock(connection)  # two processes may see a new card at once
        before = _of(connection, host)
        after = change(before)
        new = [card for card in after if card not in before]
        if new:
            c = t.gpu_numbers.c
            numbers = [card.number for card in new]
            connection.execute(delete(t.gpu_numbers).where(c.host == host, c.number.in_(numbers)))
            rows = [{"host": host, "seen_at": ledger.clock(), **vars(card)} for card in new]
            connection.execute(insert(t.gpu_numbers), rows)
    return after


def forget(connection: Connection, uuid: str) -> None:
    """A card was taken out of its host for good.

    Raises:
        Refused: no such card was ever seen.
    """
    if not connection.execute(delete(t.gpu_numbers).where(t.gpu_numbers.c.uuid == uuid)).rowcount:
        raise Refused(f"GPU {uuid!r}: was never seen; give the whole UUID, as `campaign gpus --json` shows it")


def _of(connection: Connection, host: str) -> list[Card]:
    c = t.gpu_numbers.c
    query = select(c.uuid, c.number, c.name, c.total_mb).where(c.host == host).order_by(c.number)
    return [Card(*row) for row in connection.execute(query)]
