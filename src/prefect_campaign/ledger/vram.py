"""What attempts were leased of GPUs' memory, and the most that they were seen to use."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, or_, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import event
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import AttemptSpec

COMPARED = "vram"
"""Kind of the event that says, for each attempt on GPUs that is over, what it was given and what it took."""


def attempts_of_campaign(reader: Reader, name: str) -> list[dict[str, Any]]:
    """The attempts on GPUs of all rounds of a campaign, oldest first.

    Returns:
        Columns of the attempt; looks and last_look say how often and when last it was seen on a GPU.
    """
    return _with_looks(reader, "c.name = :value", name)


def attempts_of_round(reader: Reader, campaign_id: int) -> list[dict[str, Any]]:
    """The same of one round."""
    return _with_looks(reader, "c.id = :value", campaign_id)


def compared(
    campaign_id: int, spec: AttemptSpec, why: str, data: dict[str, Any], looks: int, last: float | None, now: float
) -> dict[str, Any]:
    """The event that says what an attempt was given and what it took, as a row for `add_events`."""
    data = {**data, "attempt": spec.attempt, "looks": looks, "last_look": last}
    return event(campaign_id, now, "dispatcher", COMPARED, why=why, exp_id=spec.exp_id, data=data)


def record_peaks(connection: Connection, peaks: Mapping[str, int]) -> None:
    """Write down the most that attempts were seen to use, by token, in MiB; a smaller number than before is ignored."""
    if peaks:
        connection.execute(_peak_statement(), [{"_token": token, "_mb": mb} for token, mb in peaks.items()])


def _with_looks(reader: Reader, where: str, value: str | int) -> list[dict[str, Any]]:
    rows = reader.rows(
        "SELECT a.campaign_id, a.exp_id, a.attempt, a.token, a.spec, a.state, a.signature, a.started_at, a.ended_at, "  # noqa: S608 - constants only
        "a.vram_mb, a.vram_source, a.vram_peak_mb FROM attempts a JOIN campaigns c ON c.id = a.campaign_id "
        f"WHERE {where} ORDER BY a.id",
        value=value,
    )
    events = reader.rows(
        "SELECT e.campaign_id, e.exp_id, e.data FROM events e JOIN campaigns c ON c.id = e.campaign_id "  # noqa: S608 - constants only
        f"WHERE {where} AND e.kind = :kind ORDER BY e.id",
        value=value,
        kind=COMPARED,
    )
    data = {(e["campaign_id"], e["exp_id"], e["data"]["attempt"]): e["data"] for e in events}
    found = []
    for row in rows:
        if row["spec"]["gpus"]:
            known = data.get((row["campaign_id"], row["exp_id"], row["attempt"]), {})
            found.append({**row, "looks": known.get("looks", 0), "last_look": known.get("last_look")})
    return found


@cache
def _peak_statement() -> Update:
    known = t.attempts.c.vram_peak_mb
    return (
        update(t.attempts)
        .where(t.attempts.c.token == bindparam("_token"), or_(known.is_(None), known < bindparam("_mb")))
        .values(vram_peak_mb=bindparam("_mb"))
    )
