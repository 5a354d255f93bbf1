"""Prefect blocks: where experiments run."""

from contextlib import suppress

from prefect_campaign.blocks.command import CommandQueue
from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.pbs import PbsCluster
from prefect_campaign.blocks.ssh import SshMachine

__all__ = ["CommandQueue", "LocalMachine", "PbsCluster", "SshMachine"]

with suppress(ImportError):  # needs prefect-docker, an extra
    from prefect_campaign.blocks.docker import DockerMachine

    __all__ += ["DockerMachine"]
