"""Prefect blocks: where experiments run."""

from prefect_campaign.blocks.command import CommandQueue
from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.pbs import PbsCluster
from prefect_campaign.blocks.slurm import SlurmCluster
from prefect_campaign.blocks.ssh import SshMachine

__all__ = ["CommandQueue", "LocalMachine", "PbsCluster", "SlurmCluster", "SshMachine"]

try:
    from prefect_campaign.blocks.docker import DockerMachine

    __all__ += ["DockerMachine"]
except ModuleNotFoundError as missing:  # the extra `docker`
    if missing.name not in ("docker", "prefect_docker", "prefect_docker.host"):
        raise
