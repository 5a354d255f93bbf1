"""This machine's Docker engine."""

import os
from typing import Literal

from prefect_docker.host import DockerHost
from pydantic import Field, field_validator

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import OPEN_FILES, PIDS, SHM_MB, STOP_SECONDS, DockerSettings
from prefect_campaign.launch.process import host_name
from prefect_campaign.model.errors import Refused

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
LOCAL_SCHEMES = ("unix://", "http+unix://")


class DockerMachine(Machine):
    """A Docker engine of the machine that the flow runs on: each attempt gets a container of its own.

    The run dir, the checkpoints and the working folder are at the same paths inside. GPUs need the NVIDIA Container
    Toolkit.

    Example:
        ```python
        from prefect_campaign.blocks import DockerMachine

        DockerMachine(image="pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime", data={"/data": ""}).save("torch")
        # then: launcher: docker/torch, or [docker/torch, local] to go on without an engine
        ```
    """

    _block_type_name = "Campaign Docker Machine"
    _block_type_slug = "campaign-docker-machine"
    _description = "Runs experiments in containers of a Docker engine of the machine that the flow runs on."

    image: str = Field(
        min_length=1, description="Image that experiments run in; it needs /bin/sh.", examples=["pytorch/pytorch"]
    )
    host: DockerHost = Field(
        default_factory=DockerHost,
        description="The engine; by default the one that DOCKER_HOST names, or /var/run/docker.sock. Of this machine.",
    )
    pull: Literal["missing", "never"] = Field(
        default="missing", description="missing: an image that the engine does not have is fetched from its registry."
    )
    data: dict[str, str] = Field(
        default_factory=dict,
        description="Folders of this machine that experiments may read: path here -> path inside, empty for the same.",
        examples=[{"/data/imagenet": ""}],
    )
    writable_code: bool = Field(default=False, description="Whether experiments may write into the working folder.")
    network: str = Field(
        default="none", description="none: no network. Else bridge, host or the name of a network of the engine."
    )
    secrets: list[str] = Field(
        default_factory=list,
        description="Variables of the flow's environment that experiments get; their values are shown nowhere.",
        examples=[["WANDB_API_KEY"]],
    )
    env: dict[str, str] = Field(default_factory=dict, description="Variables for experiments. No secrets.")
    user: str = Field(default="", description="uid:gid inside; empty: whoever runs the flow, so that files are theirs.")
    memory_mb: int | None = Field(
        default=None, ge=6, description="MiB of memory, swap included, of a container; empty: 75 % of the machine's."
    )
    cpus: float | None = Field(default=None, gt=0, description="Processors of a container; empty: all but two.")
    shm_mb: int = Field(default=SHM_MB, ge=1, description="MiB of shared memory; data loaders need it.")
    pids: int = Field(default=PIDS, ge=2, description="Most processes and threads in a container.")
    open_files: int = Field(default=OPEN_FILES, ge=64, description="Most open files of a process.")
    disk_mb: int | None = Field(
        default=None,
        ge=1,
        description="MiB that a container may write beside its mounts; only where the storage driver can limit it.",
    )
    stop_seconds: int = Field(default=STOP_SECONDS, ge=0, description="From TERM to KILL when the engine stops.")
    slots: int | None = Field(
        default=None,
        ge=1,
        description="Experiments without GPUs that may run at once; by default as processors suffice.",
    )
    reserve: list[str] = Field(
        default_factory=list, description="GPUs kept for people, never used: index, or UUID or its beginning."
    )
    keep_free: int = Field(default=0, ge=0, description="How many usable GPUs are always left free for people.")
    factor: float = Field(
        default=1.0, gt=0, description="How long an experiment takes here, as a multiple of the reference machine."
    )

    @field_validator("secrets")
    @classmethod
    def _names_alone(cls, names: list[str]) -> list[str]:
        for name in names:
            if not name.isidentifier() or not name.isascii():
                raise ValueError("secrets: names of variables only, e.g. WANDB_API_KEY; their values stay outside")
        return names

    def host_name(self) -> str:
        """Name of the machine in the ledger: this one's own, so that leases hold for local experiments too."""
        return host_name()

    def settings(self) -> DockerSettings:
        """The settings as launchers know them.

        Raises:
            Refused: the engine is on another machine.
        """
        address = self.host.base_url or os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS
        if not address.startswith(LOCAL_SCHEMES):
            raise Refused(
                f"the Docker engine at {address} is not on this machine, whose folders and GPUs experiments get; "
                "use one at unix://..., or an SSH machine"
            )
        return DockerSettings(
            image=self.image,
            client=self.host.get_client,
            address=address,
            pull=self.pull,
            memory_mb=self.memory_mb,
            cpus=self.cpus,
            shm_mb=self.shm_mb,
            pids=self.pids,
            open_files=self.open_files,
            disk_mb=self.disk_mb,
            network=self.network,
            stop_seconds=self.stop_seconds,
            data=dict(self.data),
            writable_code=self.writable_code,
            user=self.user,
            env=dict(self.env),
            secrets=tuple(self.secrets),
            slots=self.slots,
            reserve=tuple(self.reserve),
            keep_free=self.keep_free,
            factor=self.factor,
        )

    def launcher(self) -> DockerLauncher:
        """The launcher for this engine.

        Raises:
            Refused: the engine is on another machine.
        """
        return DockerLauncher(self.settings())
