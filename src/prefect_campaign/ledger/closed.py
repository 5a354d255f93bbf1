"""Attempts that are over on record, for whoever finds that something of them still runs."""

from collections.abc import Collection
from dataclasses import dataclass

from prefect_campaign.ledger.reading import Reader


@dataclass(frozen=True)
class Closed:
    """One of them."""

    run_dir: str
    job_id: str
    """Empty if it is not on record which job it was."""


def closed_attempts(url: str, campaign: str, tokens: Collection[str], before: float) -> dict[str, Closed]:
    """Token -> attempt, of those of a campaign that are over on record.

    Args:
        url: of the ledger.
        campaign: its name; all its rounds count.
        tokens: the attempts in question.
        before: seconds since the epoch; it must have been over by then.

    Raises:
        CampaignError: the ledger cannot be read.
    """
    with Reader(url) as reader:
        rows = reader.rows(
            "SELECT a.token, a.run_dir, a.job_id FROM attempts a JOIN campaigns c ON c.id = a.campaign_id "
            "WHERE c.name = :campaign AND a.state NOT IN ('launching', 'running') AND a.ended_at < :before",
            campaign=campaign,
            before=before,
        )
    wanted = set(tokens)
    return {r["token"]: Closed(r["run_dir"], r["job_id"] or "") for r in rows if r["token"] in wanted}
