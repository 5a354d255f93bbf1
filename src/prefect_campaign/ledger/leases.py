"""Leases of devices: who may use a GPU or a slot of a host, across all campaigns and processes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Delete, Insert, Select, bindparam, delete, func, insert, select

from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import Transient


class Stale(Transient):
    """Somebody else changed the row first: read again, then decide again."""


@dataclass(frozen=True)
class Claim:
    """Devices of one host that one attempt is to have."""

    host: str
    devices: tuple[str, ...]
    token: str
    vram_mb: int | None = None
    """MiB of each GPU; None: all of it."""
    shared: bool = False
    until: float | None = None
    """When it is expected to end, if known; seconds since the epoch."""
    run_dir: str | None = None
    """Of a job that is no attempt; an attempt's is known anyway."""


@dataclass(frozen=True)
class Lease:
    """One device that an attempt holds."""

    host: str
    device: str
    token: str
    campaign_id: int
    vram_mb: int | None
    shared: bool
    run_dir: str | None
    """Of its job, whose processes carry it in their environment."""
    until: float | None = None
    """When it is expected to end, if known."""


def lock(connection: Connection) -> None:
    """Nobody else takes a lease before this transaction ends; SQLite's writers are one after the other anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE leases IN SHARE ROW EXCLUSIVE MODE")


def held(connection: Connection, hosts: Iterable[str]) -> list[Lease]:
    """All leases of some hosts, of any campaign."""
    rows = connection.execute(_held_statement(), {"hosts": list(hosts)})
    return [Lease(*row) for row in rows]


def take(connection: Connection, campaign_id: int, claims: Sequence[Claim], *, now: float) -> None:
    """Lease devices, all or none.

    Raises:
        Stale: somebody has one of them who does not share it.
    """
    rows = [
        {
            "host": c.host,
            "device": device,
            "token": c.token,
            "campaign_id": campaign_id,
            "vram_mb": c.vram_mb,
            "shared": c.shared,
            "until": c.until,
            "taken_at": now,
            "run_dir": c.run_dir,
        }
        for c in claims
        for device in c.devices
    ]
    connection.execute(_take_statement(), rows)
    by_device: dict[tuple[str, str], list[bool]] = {}
    for lease in held(connection, {c.host for c in claims}):
        by_device.setdefault((lease.host, lease.device), []).append(lease.shared)
    for host, device in {(c.host, device) for c in claims for device in c.devices}:
        sharing = by_device[host, device]
        if len(sharing) > 1 and not all(sharing):
            raise Stale(f"{device} of {host} was taken meanwhile; reading again")


def release(connection: Connection, tokens: Sequence[str]) -> None:
    """Give back all that attempts hold."""
    if tokens:
        connection.execute(_release_statement(), [{"_token": token} for token in tokens])


# Built once: making a statement costs SQLAlchemy more than running it.


@cache
def _held_statement() -> Select[tuple[str, str, str, int, int | None, bool, str | None, float | None]]:
    c = t.leases.c
    run_dir = func.coalesce(c.run_dir, t.attempts.c.run_dir)
    query = select(c.host, c.device, c.token, c.campaign_id, c.vram_mb, c.shared, run_dir, c.until)
    joined = query.join(t.attempts, t.attempts.c.token == c.token, isouter=True)
    return joined.where(c.host.in_(bindparam("hosts", expanding=True)))


@cache
def _take_statement() -> Insert:
    return insert(t.leases)


@cache
def _release_statement() -> Delete:
    return delete(t.leases).where(t.leases.c.token == bindparam("_token"))
