"""Alerts as people see them. Light on imports: `campaign status` shows them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.states import AttemptState

OVER = tuple(str(state) for state in AttemptState if state.final)
"""States of an attempt about which a question has lost its object."""

OPEN = "open"
ANSWERED = "answered"
SETTLED = "settled"
LAPSED = "lapsed"
WAITING = (OPEN, ANSWERED)
"""States in which an alert waits, for an answer or for that to take effect."""

RECENT = 20

MEANING = {
    "Continue anyway": "start beside whoever is there; begins now, but both get slower and may run out of memory",
    "Pick another GPU": "wait until this or another one is free; disturbs nobody, but begins only then (recommended)",
    "Skip the probe": "take the next best word for how much memory is needed; costs no GPU, and may be wrong",
    "Stop": "put the experiment on hold; costs nothing, and it runs after `campaign resume NAME --retry-failed`",
}
"""What each choice does, and what speaks for and against it."""

DONE = {
    "start": "started",
    "elsewhere": "went to another GPU",
    "stop": "stopped",
    "continue": "goes on",
    "skip": "was skipped",
}
"""What was done about an alert, by its effect."""


@dataclass(frozen=True)
class AlertView:
    """One alert, and where it stands."""

    id: int
    campaign_id: int
    """Row of its round."""
    campaign: str
    round: int
    exp_id: str
    attempt: int
    severity: str
    syndrome: str
    since: float
    """Seconds since the epoch."""
    message: str
    choices: tuple[str, ...]
    """What can be answered; of an alert that never asked, what was done."""
    answer: str | None
    answered_by: str | None
    effect: str | None
    """What was done about it; None so far."""
    state: str
    """``open``: waits for an answer; ``answered``: it has one that has not taken effect yet; ``settled``: something
    was done about it; ``lapsed``: its attempt ended before anything was."""


SELECT = """
    SELECT a.*, c.name, c.round, t.state AS attempt_state
    FROM alerts a
    JOIN campaigns c ON c.id = a.campaign_id
    LEFT JOIN attempts t ON t.campaign_id = a.campaign_id AND t.exp_id = a.exp_id AND t.attempt = a.attempt
    """


def alerts(reader: Reader, name: str | None = None) -> list[AlertView]:
    """Alerts of all rounds of one campaign, or of all campaigns; those that wait first, then the newest."""
    given = {} if name is None else {"name": name}
    rows = reader.rows(SELECT + ("WHERE c.name = :name " if given else "") + "ORDER BY a.id DESC", **given)
    return _waiting_first(map(_view, rows))


def alert(reader: Reader, alert_id: int) -> AlertView:
    """One alert, by its number.

    Raises:
        Refused: there is none.
    """
    known = 0 < alert_id < 2**31  # more is no number for the database
    found = reader.rows(SELECT + "WHERE a.id = :alert_id", alert_id=alert_id) if known else []
    if not found:
        raise Refused(f"alert {alert_id}: there is none; `campaign alerts` lists them")
    return _view(found[0])


def waiting_alerts(reader: Reader, campaign_id: int) -> list[AlertView]:
    """The alerts of one round that wait for an answer, or for their answer to take effect; oldest first."""
    asks = "WHERE a.campaign_id = :campaign_id AND a.effect IS NULL ORDER BY a.id"
    found = map(_view, reader.rows(SELECT + asks, campaign_id=campaign_id))
    return [v for v in found if v.state in WAITING]


def recent_alerts(reader: Reader, campaign_id: int) -> list[AlertView]:
    """All alerts of one round that wait, and the newest `RECENT` of the others."""
    latest = f"WHERE a.campaign_id = :campaign_id ORDER BY a.id DESC LIMIT {RECENT}"
    newest = map(_view, reader.rows(SELECT + latest, campaign_id=campaign_id))
    found = {v.id: v for v in (*newest, *waiting_alerts(reader, campaign_id))}
    return _waiting_first(sorted(found.values(), key=lambda v: -v.id))


def open_words(choices: Sequence[str]) -> str:
    """The choices of an alert with the numbers by which they can be given: ``'Continue anyway' (1), 'Stop' (2)``."""
    return ", ".join(f"{choice!r} ({number})" for number, choice in enumerate(choices, 1))


def _waiting_first(views: Iterable[AlertView]) -> list[AlertView]:
    return sorted(views, key=lambda v: WAITING.index(v.state) if v.state in WAITING else len(WAITING))


def _view(row: dict[str, Any]) -> AlertView:
    if row["effect"] is not None:
        state = SETTLED
    elif row["attempt_state"] in OVER:
        state = LAPSED
    else:
        state = OPEN if row["answer"] is None else ANSWERED
    return AlertView(
        id=row["id"],
        campaign_id=row["campaign_id"],
        campaign=row["name"],
        round=row["round"],
        exp_id=row["exp_id"],
        attempt=row["attempt"],
        severity=row["severity"],
        syndrome=row["syndrome"],
        since=row["created_at"],
        message=row["message"],
        choices=tuple(c["label"] for c in row["choices"]),
        answer=row["answer"],
        answered_by=row["answered_by"],
        effect=row["effect"],
        state=state,
    )
