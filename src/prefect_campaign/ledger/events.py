"""The append-only record of who changed what, when and why."""

from typing import Any

from sqlalchemy import Connection, insert

from prefect_campaign.ledger import tables as t

ORIGIN = "code"
"""Kind of the event that says which code the full phase starts from."""

_WIDTH = 40
"""Characters that the columns `old` and `new` hold."""


def event(
    campaign_id: int,
    at: float,
    who: str,
    kind: str,
    old: str | None = None,
    new: str | None = None,
    why: str = "",
    exp_id: str | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """One event as a row for `add_events`."""
    return {
        "campaign_id": campaign_id,
        "exp_id": exp_id,
        "at": at,
        "who": who,
        "kind": kind,
        "old": old and old[:_WIDTH],
        "new": new and new[:_WIDTH],
        "why": why,
        "data": data,
    }


def add_event(connection: Connection, *args: Any, **kwargs: Any) -> None:
    """Append one event; arguments as for `event`."""
    add_events(connection, [event(*args, **kwargs)])


def add_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Append events in one statement."""
    if events:
        connection.execute(insert(t.events), events)
