"""What attempts were leased of GPUs' memory, and the most that they were seen to use."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, or_, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.reading import Reader

_COLUMNS = (
    "a.campaign_id, a.exp_id, a.token, a.spec, a.state, a.signature, a.started_at, a.ended_at, a.vram_mb, "
    "a.vram_source, a.vram_peak_mb"
)


def attempts_of_campaign(reader: Reader, name: str) -> list[dict[str, Any]]:
    """The attempts on GPUs of all rounds of a campaign, oldest first."""
    found = reader.rows(
        f"SELECT {_COLUMNS} FROM attempts a JOIN campaigns c ON c.id = a.campaign_id "  # noqa: S608 - constants only
        "WHERE c.name = :name ORDER BY a.id",
        name=name,
    )
    return [row for row in found if row["spec"]["gpus"]]


def attempts_of_round(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """The attempts on GPUs of one round, oldest first."""
    found = reader.rows(
        f"SELECT {_COLUMNS} FROM attempts a WHERE a.campaign_id = :id ORDER BY a.id",  # noqa: S608 - constants only
        id=campaign_id,
    )
    return [row for row in found if row["spec"]["gpus"]]


def record_peaks(connection: Connection, peaks: Mapping[str, int]) -> None:
    """Write down the most that attempts were seen to use, by token, in MiB; a smaller number than before is ignored."""
    if peaks:
        connection.execute(_peak_statement(), [{"_token": token, "_mb": mb} for token, mb in peaks.items()])


@cache
def _peak_statement() -> Update:
    known = t.attempts.c.vram_peak_mb
    return (
        update(t.attempts)
        .where(t.attempts.c.token == bindparam("_token"), or_(known.is_(None), known < bindparam("_mb")))
        .values(vram_peak_mb=bindparam("_mb"))
    )
