"""Prefect blocks: where experiments run."""

from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.ssh import SshMachine

__all__ = ["LocalMachine", "SshMachine"]
