"""Prefect blocks: where experiments run."""

from prefect_campaign.blocks.machines import LocalMachine

__all__ = ["LocalMachine"]
