"""Rounds of campaigns that need somebody to look at them, whether they are the newest or not."""

from pathlib import Path
from typing import Any

from prefect_campaign.engine.setting import Setting
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import queries
from prefect_campaign.ledger.batches import last_attempt, open_attempts
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import make_plan


def rounds_to_tend(home: Home, name: str | None = None) -> list[dict[str, Any]]:
    """Rows of the rounds that are open or have attempts that are not over: of all campaigns, or of one.

    A campaign that is asked for by name is always there with its newest round.

    Raises:
        Refused: there is no campaign of that name.
    """
    with Reader(home.ledger_url) as reader:
        rows = queries.open_campaigns(reader)
        if name is None:
            return rows
        newest = queries.campaign(reader, name)
        return [newest, *(row for row in rows if row["name"] == name and row["id"] != newest["id"])]


def open_round(home: Home, row_id: int) -> Setting:
    """One of those rounds as it is now, ready to be worked on.

    Raises:
        Refused: its spec is not understood any more.
    """
    with Reader(home.ledger_url) as reader:
        row = queries.round_(reader, row_id)
    campaign = load_campaign(row["spec"])
    return Setting(home, Ledger.open(home), campaign, make_plan(campaign), CampaignRow(**row))


def has_open_attempts(setting: Setting) -> bool:
    """Whether attempts of the round are on record as not over."""
    with Reader(setting.ledger.url) as reader:
        return bool(open_attempts(reader, setting.row.id))


def elsewhere(setting: Setting) -> str:
    """Where a round's run dirs or its local jobs are, if not here; empty if nothing of it is elsewhere.

    Several machines may share one ledger: each looks after what was begun on it, unasked.
    """
    with Reader(setting.ledger.url) as reader:
        begun = last_attempt(reader, setting.row.id)
    if begun is None:
        return ""
    if not Path(begun["run_dir"]).is_relative_to(setting.home.path):
        return f"run dirs are not in {setting.home.path}"
    on_this_machine = begun["launcher"] in ("local", "docker") and begun["host"] != host_name()
    return f"runs on {begun['host']}" if on_this_machine else ""
