"""What is on record of attempts that a scheduler has accepted: their jobs, why they wait, and since when they run."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from sqlalchemy import Connection, Update, bindparam, func, or_, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.leases import Stale
from prefect_campaign.model.records import AttemptSpec, Handle
from prefect_campaign.model.states import AttemptState, ExperimentState

_MOMENT_SECONDS = 1.0
"""Many jobs are refused at once; what is less apart was one try."""


def record_queued(
    connection: Connection, campaign_id: int, submitted: Sequence[tuple[AttemptSpec, Handle]], *, now: float
) -> None:
    """Write down the job ids of attempts that a scheduler has accepted and that do not run yet."""
    if not submitted:
        return
    rows = [{"_token": s.token, "_job": h.job_id, "_handle": vars(h), "_host": h.host} for s, h in submitted]
    if connection.execute(_queued_statement(), rows).rowcount != len(rows):
        raise Stale("an attempt was closed meanwhile; reading again")
    explain(connection, campaign_id, {s.exp_id: f"job {h.job_id} of {h.host} waits" for s, h in submitted}, now=now)


def record_running(connection: Connection, token: str, node: str, started_at: float) -> None:
    """Write down that an attempt that waited in a queue runs now; `move` tells it of its experiment.

    Args:
        connection: a transaction.
        token: of the attempt.
        node: where it runs.
        started_at: since when, in seconds since the epoch.
    """
    table = t.attempts
    still_open = table.c.state.in_([AttemptState.LAUNCHING, AttemptState.RUNNING])
    statement = update(table).where(table.c.token == token, still_open)
    running = {"state": AttemptState.RUNNING, "node": node or None, "started_at": started_at}
    if connection.execute(statement.values(**running)).rowcount != 1:
        raise Stale("an attempt was closed meanwhile; reading again")


def explain(connection: Connection, campaign_id: int, why: Mapping[str, str], *, now: float) -> None:
    """Say of experiments (exp_id -> why) that are to start, or wait in a queue, what keeps them from it."""
    if why:
        rows = [{"_campaign": campaign_id, "_exp": e, "_why": text, "_now": now} for e, text in why.items()]
        connection.execute(_explain_statement(), rows)


def refused(connection: Connection, hosts: Iterable[str], signature: str, since: float) -> list[tuple[str, float, int]]:
    """When queues took no more, oldest first, and how many jobs each had then, whatever campaign they are of.

    Args:
        connection: of the ledger.
        hosts: the queues.
        signature: of attempts that were refused for that.
        since: how far back, in seconds since the epoch.
    """
    c = t.attempts.c
    query = select(c.host, c.ended_at).where(c.host.in_(list(hosts)), c.signature == signature, c.ended_at >= since)
    moments: dict[str, list[float]] = {}
    for host, at in connection.execute(query.order_by(c.ended_at)):
        known = moments.setdefault(host, [])
        if known and at - known[-1] < _MOMENT_SECONDS:
            known[-1] = at
        else:
            known.append(at)
    fine = or_(c.signature.is_(None), c.signature != signature)
    found = []
    for host, ends in moments.items():
        for at in ends:
            open_then = or_(c.ended_at.is_(None), c.ended_at > at)
            jobs = select(func.count()).where(c.host == host, c.intent_at <= at, open_then, fine)
            found.append((host, at, connection.execute(jobs).scalar_one()))
    return found


@cache
def _queued_statement() -> Update:
    return (
        update(t.attempts)
        .where(t.attempts.c.token == bindparam("_token"), t.attempts.c.state == AttemptState.LAUNCHING)
        .values(job_id=bindparam("_job"), handle=bindparam("_handle"), host=bindparam("_host"))
    )


@cache
def _explain_statement() -> Update:
    return (
        update(t.experiments)
        .where(
            t.experiments.c.campaign_id == bindparam("_campaign"),
            t.experiments.c.exp_id == bindparam("_exp"),
            t.experiments.c.state == ExperimentState.LAUNCHING,
        )
        .values(reason=bindparam("_why"), updated_at=bindparam("_now"))
    )
