"""Alerts: what people must hear, what they may answer, and what they answered."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused

ANYWAY = "Continue anyway"
ELSEWHERE = "Pick another GPU"
STOP = "Stop"


def raise_alert(
    connection: Connection,
    campaign_id: int,
    exp_id: str,
    attempt: int,
    *,
    syndrome: str,
    message: str,
    choices: Sequence[str],
    now: float,
    severity: str = "warning",
) -> None:
    """Put a question to people, once per attempt and syndrome."""
    table = t.alerts
    if connection.execute(_one(campaign_id, exp_id, attempt, syndrome)).first():
        return
    connection.execute(
        insert(table).values(
            campaign_id=campaign_id,
            exp_id=exp_id,
            attempt=attempt,
            severity=severity,
            syndrome=syndrome,
            message=message,
            choices=[{"label": c, "effect": c} for c in choices],
            created_at=now,
        )
    )


def answer_of(connection: Connection, campaign_id: int, exp_id: str, attempt: int, *, syndrome: str) -> str | None:
    """What a person has answered; None so far."""
    row = connection.execute(_one(campaign_id, exp_id, attempt, syndrome)).mappings().first()
    return row["answer"] if row else None


def answer(connection: Connection, alert_id: int, choice: str, *, by: str, now: float) -> None:
    """Record a person's choice; the last one holds until it has taken effect.

    Raises:
        Refused: there is no such alert, it asks nothing, or it does not offer this.
    """
    row = connection.execute(select(t.alerts).where(t.alerts.c.id == alert_id)).mappings().first()
    if row is None:
        raise Refused(f"alert {alert_id}: there is none; `campaign alerts` lists them")
    offered = [c["label"] for c in row["choices"]]
    if row["effect"]:
        raise Refused(f"alert {alert_id}: asks nothing any more ({row['effect']})")
    chosen = next((o for o in offered if o.casefold() == choice.casefold()), None)
    if chosen is None:
        raise Refused(f"alert {alert_id}: {choice!r} is not offered; choose one of {', '.join(map(repr, offered))}")
    if not by.strip():
        raise Refused("by: the name of the person who answers is needed")
    connection.execute(update(t.alerts).where(t.alerts.c.id == alert_id).values(answer=chosen, answered_by=by.strip()))
    add_event(connection, row["campaign_id"], now, by.strip(), "alert", row["syndrome"], chosen, "", row["exp_id"])


def settle(connection: Connection, campaign_id: int, exp_id: str, attempt: int, *, syndrome: str, effect: str) -> None:
    """What was done about it in the end; nothing is asked any more."""
    table = t.alerts
    connection.execute(
        update(table)
        .where(
            table.c.campaign_id == campaign_id,
            table.c.exp_id == exp_id,
            table.c.attempt == attempt,
            table.c.syndrome == syndrome,
        )
        .values(effect=effect)
    )


def listed(reader: Reader, name: str | None = None) -> list[dict[str, Any]]:
    """Alerts with the name of their campaign, newest first; of one campaign or of all."""
    return reader.rows(
        "SELECT a.*, c.name FROM alerts a JOIN campaigns c ON c.id = a.campaign_id "
        "WHERE :name IS NULL OR c.name = :name ORDER BY a.id DESC",
        name=name,
    )


def _one(campaign_id: int, exp_id: str, attempt: int, syndrome: str) -> Select[Any]:
    table = t.alerts
    return select(table).where(
        table.c.campaign_id == campaign_id,
        table.c.exp_id == exp_id,
        table.c.attempt == attempt,
        table.c.syndrome == syndrome,
    )
