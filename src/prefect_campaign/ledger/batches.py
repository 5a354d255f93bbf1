"""What a dispatcher reads and keeps about the batch it drives."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import AttemptSpec


def retry_columns(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """exp_id, retry_at and healed of every experiment."""
    return reader.rows("SELECT exp_id, retry_at, healed FROM experiments WHERE campaign_id = :id", id=campaign_id)


def tried(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """Every attempt with its diagnosis and fix, in order."""
    return reader.rows(
        "SELECT exp_id, attempt, intent_at, started_at, ended_at, signature, fix FROM attempts WHERE campaign_id = :id "
        "ORDER BY attempt",
        id=campaign_id,
    )


def reopened_at(reader: Reader, campaign_id: int) -> dict[str, float]:
    """When experiments were last asked for again by a person."""
    rows = reader.rows(
        "SELECT exp_id, MAX(at) AS at FROM events WHERE campaign_id = :id AND kind = 'reopened' GROUP BY exp_id",
        id=campaign_id,
    )
    return {r["exp_id"]: r["at"] for r in rows}


def open_attempts(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """Attempts that are not over, oldest first."""
    return reader.rows(
        "SELECT * FROM attempts WHERE campaign_id = :id AND state IN ('launching', 'running') ORDER BY id",
        id=campaign_id,
    )


def last_attempt(reader: Reader, campaign_id: int) -> dict[str, Any] | None:
    """run_dir, launcher and host of the attempt that was made last; None if there is none yet."""
    rows = reader.rows(
        "SELECT run_dir, launcher, host FROM attempts WHERE campaign_id = :id ORDER BY id DESC LIMIT 1", id=campaign_id
    )
    return rows[0] if rows else None


def hosts_before(reader: Reader, campaign_id: int, exp_id: str, attempt: int) -> list[str]:
    """Where the earlier attempts of an experiment were started, each host once, that of the latest first."""
    rows = reader.rows(
        "SELECT host, MAX(attempt) AS latest FROM attempts WHERE campaign_id = :id AND exp_id = :exp "
        "AND attempt < :attempt AND job_id IS NOT NULL GROUP BY host ORDER BY latest DESC",
        id=campaign_id,
        exp=exp_id,
        attempt=attempt,
    )
    return [row["host"] for row in rows]


def leased(reader: Reader, campaign_id: int) -> set[str]:
    """Tokens of a campaign's attempts that hold devices."""
    rows = reader.rows("SELECT DISTINCT token FROM leases WHERE campaign_id = :id", id=campaign_id)
    return {row["token"] for row in rows}


def hours_used(reader: Reader, campaign_id: int, devices: int) -> float:
    """Device hours of all attempts of a campaign that are over.

    Args:
        reader: the ledger.
        campaign_id: the round's row.
        devices: GPUs of an attempt, or 1.
    """
    rows = reader.rows(
        "SELECT SUM(ended_at - started_at) AS busy FROM attempts WHERE campaign_id = :id AND ended_at > started_at",
        id=campaign_id,
    )
    return float(rows[0]["busy"] or 0.0) / 3600 * devices


def record_params(connection: Connection, campaign_id: int, specs: Iterable[AttemptSpec]) -> None:
    """Keep the parameters that a sampler chose for trials, in the transaction that launches them."""
    table = t.experiments
    for spec in specs:
        connection.execute(
            update(table)
            .where(table.c.campaign_id == campaign_id, table.c.exp_id == spec.exp_id)
            .values(params=dict(spec.params))
        )
