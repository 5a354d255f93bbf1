"""Prefect flow runs at work on a campaign, each with its process: what a killed process leaves behind is found."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from prefect_campaign.ledger import tables as t


@dataclass(frozen=True)
class NotedRun:
    """A flow run at work, the process that executes it, and since when (seconds since the epoch)."""

    flow_run_id: str
    process: str
    since: float


def note(connection: Connection, campaign_id: int, run: NotedRun) -> None:
    """Remember a run; one that starts again takes the place of what was noted of it before."""
    forget(connection, run.flow_run_id)
    values = {"campaign_id": campaign_id, "process": run.process, "since": run.since}
    connection.execute(insert(t.flow_runs).values(flow_run_id=run.flow_run_id, **values))


def noted(connection: Connection, campaign_id: int) -> list[NotedRun]:
    """The campaign's runs that nobody has forgotten yet."""
    c = t.flow_runs.c
    rows = connection.execute(select(c.flow_run_id, c.process, c.since).where(c.campaign_id == campaign_id))
    return [NotedRun(*row) for row in rows]


def forget(connection: Connection, flow_run_id: str) -> None:
    """The run is over, or gone."""
    connection.execute(delete(t.flow_runs).where(t.flow_runs.c.flow_run_id == flow_run_id))
