"""The stories: how a campaign goes from spec to approved results, as Prefect flows."""
