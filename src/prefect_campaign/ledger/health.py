"""What `campaign doctor` asks the ledger; nothing is changed, whatever state it is in."""

from collections.abc import Callable
from typing import Any

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.states import CampaignStatus


def revision(reader: Reader) -> str:
    """Revision of the ledger's tables."""
    rows = reader.rows("SELECT version_num FROM alembic_version")
    return str(rows[0]["version_num"]) if rows else ""


def undriven(reader: Reader, now: float, alive: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Open campaigns that no living process drives: name, round, status, stage, waiting, running.

    Args:
        reader: of the ledger.
        now: seconds since the epoch.
        alive: whether a process lives, by its identity.
    """
    found = []
    flows = reader.rows("SELECT campaign_id, process FROM flow_runs")
    for row in queries.open_campaigns(reader):
        # Between two stages a flow is at work without a dispatcher.
        if _driven(row, now, alive) or any(f["campaign_id"] == row["id"] and alive(f["process"]) for f in flows):
            continue
        states = [view.state for view in queries.experiment_views(reader, row["id"])]
        found.append(
            {
                **{key: row[key] for key in ("name", "round", "status", "stage")},
                "waiting": sum(state in ("planned", "ready", "queued") for state in states),
                "running": sum(state in ("launching", "running") for state in states),
                "ended": CampaignStatus(row["status"]).ended,
            }
        )
    return found


def orphaned_leases(reader: Reader, now: float, alive: Callable[[str], bool]) -> dict[str, list[str]]:
    """Name of a campaign that nobody drives -> the devices that it has leased, as ``host device``."""
    rows = reader.rows(
        "SELECT l.host, l.device, c.name, c.owner, c.owner_expires FROM leases l "
        "JOIN campaigns c ON c.id = l.campaign_id ORDER BY l.id"
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        if not _driven(row, now, alive):
            found.setdefault(row["name"], []).append(f"{row['host']} {row['device']}")
    return found


def _driven(row: dict[str, Any], now: float, alive: Callable[[str], bool]) -> bool:
    return bool(row["owner"]) and (row["owner_expires"] or 0.0) > now and alive(row["owner"])
