"""How long attempts took."""

from typing import Any

from prefect_campaign.ledger.reading import Reader


def attempts_of_campaign(reader: Reader, name: str) -> list[dict[str, Any]]:
    """The attempts that ran and are over, of all rounds of a campaign, oldest first; none whose end nobody saw.

    Returns:
        campaign_id, exp_id, stage, method and dataset of the experiment; host, state and seconds of the attempt; its
        spec where it is done, for only that is looked at.
    """
    return reader.rows(
        "SELECT a.campaign_id, a.exp_id, e.stage, e.method, e.dataset, a.host, a.state, "
        "a.ended_at - a.started_at AS seconds, CASE WHEN a.state = 'done' THEN a.spec END AS spec FROM attempts a "
        "JOIN campaigns c ON c.id = a.campaign_id "
        "JOIN experiments e ON e.campaign_id = a.campaign_id AND e.exp_id = a.exp_id "
        "WHERE c.name = :name AND a.started_at IS NOT NULL AND a.ended_at IS NOT NULL "
        "AND a.state <> 'lost' ORDER BY a.id",
        name=name,
    )
