"""Prefect blocks: where experiments run."""

from contextlib import suppress

from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.ssh import SshMachine

__all__ = ["LocalMachine", "SshMachine"]

with suppress(ImportError):  # needs prefect-docker, an extra
    from prefect_campaign.blocks.docker import DockerMachine

    __all__ += ["DockerMachine"]
