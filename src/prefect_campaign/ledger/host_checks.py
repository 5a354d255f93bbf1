"""Environment checks of hosts: what came of each, and the one job of a check that may be running."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.leases import Claim, Stale, release, take
from prefect_campaign.ledger.reading import Reader

CHECKING, READY, FAILED = "checking", "ready", "failed"
EVENT = "host"
"""Kind of the events that say, for one campaign, what came of a check."""
LEFT_OVER = "left over"
"""Step of a job whose check has failed before it was over: it must be ended before another starts."""


@dataclass(frozen=True)
class CheckRow:
    """One host, one state of the code, one way to run it."""

    id: int
    host: str
    code_hash: str
    key: str
    campaign_id: int
    state: str
    reasons: list[dict[str, str]]
    job: dict[str, Any] | None
    """Of a job that may be running: step, launcher, spec, handle (None before it is known), since (epoch seconds)."""
    tries: int
    """Jobs that were started; numbers their tokens."""
    started_at: float
    checked_at: float | None


def known(connection: Connection, pairs: Collection[tuple[str, str]], code_hash: str) -> dict[str, CheckRow]:
    """Host -> its check for this state of the code, where there is one.

    Args:
        connection: a transaction.
        pairs: (host, key).
        code_hash: the state.
    """
    c = t.host_checks.c
    query = select(t.host_checks).where(c.code_hash == code_hash, c.host.in_([host for host, _ in pairs]))
    rows = (CheckRow(**row) for row in connection.execute(query).mappings())
    return {row.host: row for row in rows if (row.host, row.key) in pairs}


def claim(
    connection: Connection,
    campaign_id: int,
    host: str,
    code_hash: str,
    key: str,
    *,
    now: float,
    alive: Callable[[str], bool],
) -> CheckRow:
    """Make a check this campaign's own, unless it has passed or a living dispatcher is at it.

    A job that the last owner left is still in the row: it must be found before another starts.

    Returns:
        The row: `ready`, or `checking` with this campaign as its owner, or `checking` with another.

    Raises:
        Stale: somebody else was first.
    """
    from sqlalchemy.exc import IntegrityError

    row = known(connection, {(host, key)}, code_hash).get(host)
    mine = {"campaign_id": campaign_id, "state": CHECKING, "started_at": now, "reasons": [], "checked_at": None}
    if row is None:
        values = {"host": host, "code_hash": code_hash, "key": key, "tries": 0, "job": None, **mine}
        try:
            connection.execute(insert(t.host_checks).values(values))
        except IntegrityError as error:
            raise Stale(f"the check of host {host} was begun by another process") from error
    elif row.state == READY:
        return row
    elif row.state == CHECKING and row.campaign_id == campaign_id:
        return row  # of this campaign's dispatcher before: it goes on
    elif row.state == CHECKING and _driven(connection, row.campaign_id, now, alive):
        return row
    else:
        if row.state == CHECKING:
            return _change(connection, row, campaign_id=campaign_id)  # it goes on with what another one began
        job = {**row.job, "step": LEFT_OVER} if row.job else None
        return _change(connection, row, **mine, job=job)
    return known(connection, {(host, key)}, code_hash)[host]


def begin_job(
    connection: Connection, row: CheckRow, job: Mapping[str, Any], lease: Claim | None, now: float
) -> CheckRow:
    """Write down a job (step, launcher, spec) that is about to start, with the devices it gets.

    Raises:
        Stale: another process took the check over, or somebody has one of the devices.
    """
    row = _change(connection, row, job={**job, "handle": None, "since": now}, tries=row.tries + 1)
    if lease is not None:
        take(connection, row.campaign_id, [lease], now=now)
    return row


def job_started(connection: Connection, row: CheckRow, handle: Mapping[str, Any]) -> CheckRow:
    """Write down how its job is found."""
    return _change(connection, row, job={**(row.job or {}), "handle": dict(handle)})


def job_over(connection: Connection, row: CheckRow) -> CheckRow:
    """Its job is surely over: its devices come back."""
    if row.job:
        release(connection, [row.job["spec"]["token"]])
    return _change(connection, row, job=None)


def conclude(
    connection: Connection, row: CheckRow, state: str, reasons: Sequence[Mapping[str, str]], now: float
) -> CheckRow:
    """Write down what came of a check. A job that may still be running stays in the row, with its devices."""
    return _change(connection, row, state=state, reasons=[dict(r) for r in reasons], checked_at=now)


def leftovers(
    connection: Connection, hosts: Mapping[str, str], campaign_id: int, *, now: float, alive: Callable[[str], bool]
) -> list[CheckRow]:
    """Checks with a job that no other process looks after: of this campaign, or of one that nobody drives.

    Args:
        connection: a transaction.
        hosts: host -> its launcher; jobs of another launcher could not be found by it.
        campaign_id: this campaign.
        now: seconds since the epoch.
        alive: whether a dispatcher's process lives.
    """
    c = t.host_checks.c
    query = select(t.host_checks).where(c.host.in_(list(hosts)))
    rows = [CheckRow(**row) for row in connection.execute(query).mappings()]
    return [
        row
        for row in rows
        if row.job
        and row.job["launcher"] == hosts[row.host]
        and (row.campaign_id == campaign_id or not _driven(connection, row.campaign_id, now, alive))
    ]


def told(connection: Connection, campaign_id: int, host: str) -> dict[str, Any] | None:
    """What a campaign's events say last of the check of a host; None if they say nothing."""
    e = t.events.c
    query = select(e.data).where(e.campaign_id == campaign_id, e.kind == EVENT).order_by(e.id.desc())
    return next((data for data in connection.execute(query).scalars() if data and data["host"] == host), None)


def told_of_round(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """The same for every host of a round, the one that was told last at the end."""
    rows = reader.rows(
        "SELECT data FROM events WHERE campaign_id = :campaign_id AND kind = :kind ORDER BY id",
        campaign_id=campaign_id,
        kind=EVENT,
    )
    return list({row["data"]["host"]: row["data"] for row in rows if row["data"]}.values())


def _change(connection: Connection, row: CheckRow, **values: Any) -> CheckRow:
    c = t.host_checks.c
    unchanged = (c.id == row.id, c.campaign_id == row.campaign_id, c.tries == row.tries)
    if connection.execute(update(t.host_checks).where(*unchanged).values(**values)).rowcount != 1:
        raise Stale(f"the check of host {row.host} was taken over by another process")
    return replace(row, **values)


def _driven(connection: Connection, campaign_id: int, now: float, alive: Callable[[str], bool]) -> bool:
    found = connection.execute(select(t.campaigns).where(t.campaigns.c.id == campaign_id)).mappings().one()
    return CampaignRow(**found).driver(now, alive) is not None
