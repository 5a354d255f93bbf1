"""Alerts: what people must hear, what they may answer, and what they answered. `alert_list` reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, update
from sqlalchemy.dialects import postgresql, sqlite

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.alert_list import DONE, OVER, open_words
from prefect_campaign.ledger.events import add_event
from prefect_campaign.model.errors import Refused

ANYWAY = "Continue anyway"
ELSEWHERE = "Pick another GPU"
STOP = "Stop"
SKIP = "Skip the probe"


@dataclass(frozen=True)
class Asked:
    """A question that waits for an answer, or for its answer to take effect."""

    since: float
    """Seconds since the epoch."""
    answer: str | None


def add_alert(
    connection: Connection,
    campaign_id: int,
    exp_id: str,
    attempt: int,
    *,
    severity: str,
    syndrome: str,
    message: str,
    choices: Sequence[Mapping[str, str]],
    effect: str | None,
    created_at: float,
) -> bool:
    """Put an alert on record, once per attempt and syndrome; False if it was there already.

    Args:
        connection: a write transaction.
        campaign_id: the round's row.
        exp_id: the experiment.
        attempt: number of its attempt.
        severity: info, warning or critical.
        syndrome: what it is, as a short name.
        message: one line for people.
        choices: what can be answered, as ``label`` and ``effect``.
        effect: what was done about it already, so that it asks nothing; None: people are asked.
        created_at: seconds since the epoch.
    """
    values = {
        "campaign_id": campaign_id,
        "exp_id": exp_id,
        "attempt": attempt,
        "severity": severity,
        "syndrome": syndrome,
        "message": message,
        "choices": [dict(c) for c in choices],
        "effect": effect,
        "created_at": created_at,
    }
    # One statement: between a look and an insert another process could have raised the same one.
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(t.alerts).values(**values).on_conflict_do_nothing().returning(t.alerts.c.id)
    return connection.execute(new).first() is not None


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
) -> bool:
    """Put a question to people; False if they are asked already.

    A question that was settled is put anew, without its old answer: that was about another moment.
    """
    new = add_alert(
        connection,
        campaign_id,
        exp_id,
        attempt,
        severity=severity,
        syndrome=syndrome,
        message=message,
        choices=[{"label": c, "effect": c} for c in choices],
        effect=None,
        created_at=now,
    )
    if new:
        return True
    anew = {"message": message, "created_at": now, "effect": None, "answer": None, "answered_by": None}
    again = update(t.alerts).where(*_key(campaign_id, exp_id, attempt, syndrome), t.alerts.c.effect.is_not(None))
    return bool(connection.execute(again.values(**anew)).rowcount)


def asked_at(connection: Connection, campaign_id: int, exp_id: str, attempt: int, *, syndrome: str) -> float | None:
    """Since when people are asked about an attempt, in seconds since the epoch; None if they are not."""
    row = connection.execute(_one(campaign_id, exp_id, attempt, syndrome)).mappings().first()
    return row["created_at"] if row and row["effect"] is None else None


def asked(connection: Connection, campaign_id: int, *, syndrome: str) -> dict[tuple[str, int], Asked]:
    """(exp_id, number of the attempt) -> what people are asked about it."""
    a = t.alerts.c
    query = select(a.exp_id, a.attempt, a.created_at, a.answer)
    open_ones = query.where(a.campaign_id == campaign_id, a.syndrome == syndrome, a.effect.is_(None)).order_by(a.id)
    return {(row.exp_id, row.attempt): Asked(row.created_at, row.answer) for row in connection.execute(open_ones)}


def answer_of(connection: Connection, campaign_id: int, exp_id: str, attempt: int, *, syndrome: str) -> str | None:
    """What a person has answered; None so far."""
    row = connection.execute(_one(campaign_id, exp_id, attempt, syndrome)).mappings().first()
    return row["answer"] if row else None


def answer(connection: Connection, alert_id: int, choice: str, *, by: str, now: float, reason: str = "") -> str:
    """Record a person's choice; the last one holds until it has taken effect.

    Args:
        connection: a write transaction.
        alert_id: the alert's number.
        choice: its words, an unambiguous beginning of them, or its place in the list, from 1.
        by: who answers.
        now: seconds since the epoch.
        reason: why; kept in the events.

    Returns:
        The words of the choice.

    Raises:
        Refused: there is no such alert, it asks nothing (any more), or it does not offer this.
    """
    table = t.alerts
    row = connection.execute(select(table).where(table.c.id == alert_id).with_for_update()).mappings().first()
    if row is None:
        raise Refused(f"alert {alert_id}: there is none; `campaign alerts` lists them")
    if row["effect"]:
        raise Refused(f"alert {alert_id}: asks nothing any more ({DONE.get(row['effect'], row['effect'])})")
    if _attempt_is_over(connection, dict(row)):
        raise Refused(
            f"alert {alert_id}: asks nothing any more (attempt {row['attempt']} of {row['exp_id']} is over); "
            "`campaign alerts` lists what is open"
        )
    chosen = _chosen(alert_id, [c["label"] for c in row["choices"]], choice)
    who = by.strip()
    if not who:
        raise Refused("by: the name of the person who answers is needed")
    connection.execute(update(table).where(table.c.id == alert_id).values(answer=chosen[:40], answered_by=who))
    # The event's columns are narrower than a syndrome may be.
    add_event(
        connection, row["campaign_id"], now, who, "alert", row["syndrome"][:40], chosen[:40], reason, row["exp_id"]
    )
    return chosen


def settle(connection: Connection, campaign_id: int, exp_id: str, attempt: int, *, syndrome: str, effect: str) -> None:
    """What was done about it in the end, if people are asked; nothing is asked any more."""
    asks = (*_key(campaign_id, exp_id, attempt, syndrome), t.alerts.c.effect.is_(None))
    connection.execute(update(t.alerts).where(*asks).values(effect=effect))


def _one(campaign_id: int, exp_id: str, attempt: int, syndrome: str) -> Select[Any]:
    return select(t.alerts).where(*_key(campaign_id, exp_id, attempt, syndrome))


def _key(campaign_id: int, exp_id: str, attempt: int, syndrome: str) -> tuple[ColumnElement[bool], ...]:
    a = t.alerts.c
    return a.campaign_id == campaign_id, a.exp_id == exp_id, a.attempt == attempt, a.syndrome == syndrome


def _attempt_is_over(connection: Connection, row: Mapping[str, Any]) -> bool:
    a = t.attempts.c
    mine = (a.campaign_id == row["campaign_id"], a.exp_id == row["exp_id"], a.attempt == row["attempt"])
    return connection.execute(select(a.id).where(*mine, a.state.in_(OVER))).first() is not None


def _chosen(alert_id: int, offered: Sequence[str], choice: str) -> str:
    """The choice that is meant.

    Raises:
        Refused: none, or more than one.
    """
    wanted = " ".join(choice.split()).casefold()
    numbers = {str(number): o for number, o in enumerate(offered, 1)}
    exact = [o for o in offered if o.casefold() == wanted] or [o for n, o in numbers.items() if n == wanted]
    found = exact or [o for o in offered if wanted and o.casefold().startswith(wanted)]
    if len(found) == 1:
        return found[0]
    told = f"{choice!r} may mean {' or '.join(map(repr, found))}; " if found else f"{choice!r} is not offered; "
    raise Refused(f"alert {alert_id}: {told if wanted else ''}choose one of {open_words(offered)}")
