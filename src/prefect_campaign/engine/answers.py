"""A person's answer to an alert: recorded first, and then said when it takes effect."""

from dataclasses import dataclass

from prefect_campaign.engine.preflight import POLL_SECONDS
from prefect_campaign.engine.process import identity_alive
from prefect_campaign.ledger import alerts, queries
from prefect_campaign.ledger.alert_list import alert
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger


@dataclass(frozen=True)
class Answered:
    """An answer on record."""

    alert_id: int
    campaign: str
    exp_id: str
    choice: str
    by: str
    told: str
    """What was done, for people."""


def answer_alert(alert_id: int, choice: str, *, by: str, reason: str = "") -> Answered:
    """Record the answer to an alert; whoever drives the campaign acts on it at its next look.

    The last answer holds until it has taken effect.

    Args:
        alert_id: the alert's number, as `campaign alerts` shows it.
        choice: one of the alert's choices: its words, an unambiguous beginning of them, or its number.
        by: who answers.
        reason: why; kept with the answer.

    Raises:
        Refused: there is no such alert, it asks nothing (any more), or it does not offer this.
    """
    home = Home.locate()
    with Reader(home.ledger_url) as reader:  # answering makes no ledger
        asked = alert(reader, alert_id)
        row = CampaignRow(**queries.round_(reader, asked.campaign_id))
    ledger = Ledger.open(home)
    try:
        with ledger.write() as connection:
            now = ledger.clock()
            chosen = alerts.answer(connection, asked.id, choice, by=by, now=now, reason=reason.strip())
    finally:
        ledger.close()
    driven = row.driver(now, identity_alive) is not None
    before = f" (was {asked.answer} by {asked.answered_by})" if asked.answer and asked.answer != chosen else ""
    when = (
        (
            "takes effect as soon as a GPU is free"
            if chosen == alerts.ELSEWHERE
            else f"takes effect within {POLL_SECONDS:g} s"
        )
        if driven
        else f"nothing drives campaign {asked.campaign!r} now: takes effect after `campaign resume {asked.campaign}`"
    )
    told = f"alert {asked.id}: {chosen} by {by.strip()} recorded for {asked.exp_id}{before}; {when}"
    return Answered(asked.id, asked.campaign, asked.exp_id, chosen, by.strip(), told)
