"""Prefect blocks: where experiments run."""

from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.slurm import SlurmCluster
from prefect_campaign.blocks.ssh import SshMachine

__all__ = ["LocalMachine", "SlurmCluster", "SshMachine"]

try:
    from prefect_campaign.blocks.docker import DockerMachine

    __all__ += ["DockerMachine"]
except ModuleNotFoundError as missing:  # the extra `docker`
    if missing.name not in ("docker", "prefect_docker", "prefect_docker.host"):
        raise
