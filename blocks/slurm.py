"""Slurm clusters."""

from pydantic import Field

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.blocks.ssh import SshMachine
from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import GpuRequest, SlurmSettings
from prefect_campaign.launch.slurm.ssh import launcher_through


class SlurmCluster(Machine):
    """A Slurm cluster: experiments of one shape become job arrays, all watched by one squeue.

    Slurm's own programs are used, on this machine or, with `ssh`, on the cluster's log-in host. Run dirs must be on a
    file system that the nodes share with the submitting side; with `ssh` they are brought there and back.

    Example:
        ```python
        from prefect_campaign.blocks import SlurmCluster

        SlurmCluster(name="lab", partition="gpu", account="vision").save("lab")  # then: launcher: slurm/lab
        ```
    """

    _block_type_name = "Campaign Slurm Cluster"
    _block_type_slug = "campaign-slurm-cluster"
    _description = "Runs experiments as jobs and arrays of a Slurm cluster."

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="The cluster in tables and ledger: lower-case letters, digits, '.' and '-'. Never change it.",
        examples=["lab"],
    )
    partition: str = Field(default="", description="One, or several with commas; empty: the cluster's default.")
    account: str = Field(default="", description="Whom the time is charged to; empty: your default.")
    qos: str = Field(default="", description="Quality of service; empty: the default.")
    constraint: str = Field(default="", description="Features that nodes must have.", examples=["a100&nvlink"])
    reservation: str = Field(default="", description="Reservation to run in.")
    nodes: str = Field(default="", description="Nodes that every job gets, as Slurm writes them. Seldom useful.")
    exclude: str = Field(default="", description="Nodes that no job may run on.", examples=["gpu07,gpu[11-12]"])
    gpu_type: str = Field(default="", description="Type of GPU to ask for; empty: any.", examples=["a100"])
    gpu_request: GpuRequest = Field(default="gres", description="How GPUs are asked for: --gres=gpu:2, or --gpus=2 ...")
    directives: list[str] = Field(
        default_factory=list,
        description="More options of sbatch, one each, as --name=value.",
        examples=[["--mail-type=FAIL", "--hint=nomultithread"]],
    )
    modules: list[str] = Field(
        default_factory=list, description="Modules to load before an experiment starts.", examples=[["cuda/12.4"]]
    )
    prologue: list[str] = Field(
        default_factory=list,
        description="Lines of sh to run before an experiment starts; it fails if one of them fails.",
        examples=[[". ~/venv/bin/activate"]],
    )
    env: dict[str, str] = Field(default_factory=dict, description="Variables for experiments there. No secrets.")
    inherit_environment: bool = Field(
        default=True, description="Give jobs the environment of whoever submits them, as sbatch does."
    )
    container_image: str = Field(default="", description="Run in this image by sbatch --container-image (Pyxis).")
    container_mounts: list[str] = Field(
        default_factory=list, description="from:to or from:to:ro, besides run dirs and working folder."
    )
    apptainer_image: str = Field(default="", description="Run in this image (file or URI) by apptainer exec.")
    apptainer_program: str = Field(default="apptainer", description="apptainer, singularity, or a path of one.")
    binds: list[str] = Field(
        default_factory=list, description="from:to or from:to:ro for apptainer, besides run dir and working folder."
    )
    max_jobs: int = Field(default=1000, ge=1, description="Jobs that may be in the queue at once, waiting and running.")
    array_size: int | None = Field(
        default=None, ge=1, description="Tasks of one array at most; empty: as many as the cluster allows."
    )
    array_limit: int | None = Field(
        default=None, ge=1, description="Tasks of one array that may run at once; empty: no limit."
    )
    requeue: bool = Field(default=True, description="Let Slurm run a job again that was preempted or whose node died.")
    factor: float = Field(
        default=1.0, gt=0, description="How long an experiment takes there, as a multiple of the reference machine."
    )
    ssh: SshMachine | None = Field(
        default=None, description="Log-in host of the cluster; empty: Slurm's programs are on this machine."
    )
    programs: str = Field(default="", description="Folder with sbatch, squeue and the others; empty: found on PATH.")
    conf: str = Field(default="", description="Path of slurm.conf; empty: as the environment says.")
    record_seconds: float = Field(
        default=20.0,
        ge=0,
        description="How long the files of an ended job may take to be seen on the shared disk.",
    )

    def host_name(self) -> str:
        """Name of the cluster in the ledger."""
        return self.name

    def settings(self) -> SlurmSettings:
        """The cluster as launchers know it.

        Raises:
            Refused: a field can never work.
        """
        lists = ("directives", "modules", "prologue", "container_mounts", "binds")
        names = set(SlurmSettings.__dataclass_fields__)
        values = {name: getattr(self, name) for name in type(self).model_fields if name in names}
        return SlurmSettings(**{**values, **{name: tuple(values[name]) for name in lists}})

    def launcher(self) -> SlurmLauncher:
        """The launcher for this cluster.

        Raises:
            Refused: a field can never work.
        """
        settings = self.settings()
        return SlurmLauncher(settings) if self.ssh is None else launcher_through(self.ssh.host(), settings)
