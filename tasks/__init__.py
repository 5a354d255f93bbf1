"""The verbs of a campaign, as Prefect tasks."""
