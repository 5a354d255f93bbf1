"""Clusters with PBS Pro, OpenPBS or Torque."""

from typing import Literal, Self

from pydantic import Field, model_validator

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.blocks.ssh import SshMachine
from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.queue.away import place_of
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Place
from prefect_campaign.model.errors import Refused


class PbsCluster(Machine):
    """A cluster whose scheduler is PBS Pro, OpenPBS or Torque.

    Its commands (`qsub`, `qstat`, `qdel`) are run on this machine, or on a log-in node by SSH. Nothing of ours needs to
    be installed on its nodes.

    Example:
        ```python
        from prefect_campaign.blocks import PbsCluster

        cluster = PbsCluster(name="lab-pbs", queue="gpu", project="ab12", storage=["scratch/ab12"])
        cluster.save("lab")  # then: launcher: pbs/lab
        ```
    """

    _block_type_name = "Campaign PBS Cluster"
    _block_type_slug = "campaign-pbs-cluster"
    _description = "Runs experiments as jobs of PBS Pro, OpenPBS or Torque."

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="The queue in tables and in the ledger: lower-case letters, digits, '.' and '-'. Never change it.",
        examples=["lab-pbs"],
    )
    ssh: SshMachine | None = Field(
        default=None, description="Log-in node that the commands are run on; empty: this machine."
    )
    queue: str = Field(default="", description="Queue for jobs; empty: the server's default.")
    project: str = Field(default="", description="Project that is charged (qsub -P).")
    account: str = Field(default="", description="Account that is charged (qsub -A), where sites use that.")
    storage: list[str] = Field(
        default_factory=list,
        description="File systems that jobs mount, where the site wants them named (-l storage=a+b).",
        examples=[["gdata/ab12", "scratch/ab12"]],
    )
    style: Literal["select", "plain", "nodes"] = Field(
        default="select",
        description="How resources are asked for: select (-l select=1:ncpus=..:ngpus=..:mem=..), plain (-l ncpus=.. "
        "-l ngpus=.. -l mem=..), nodes (Torque: -l nodes=1:ppn=..:gpus=..).",
    )
    chunk: str = Field(default="", description="What else each chunk must have.", examples=["gpu_model=a100"])
    place: str = Field(default="", description="Placement (-l place=..).", examples=["excl"])
    disk: str = Field(default="", description="The site's resource for local disk.", examples=["jobfs"])
    memory_mb: int | None = Field(default=None, ge=1, description="MiB for experiments that do not say.")
    rerun: bool = Field(default=True, description="Whether PBS may run a job again when its node fails.")
    modules: list[str] = Field(default_factory=list, description="Environment modules that jobs load.")
    directives: list[str] = Field(
        default_factory=list, description="More options of qsub, one each.", examples=[["-l gpu_type=a100"]]
    )
    path: list[str] = Field(
        default_factory=list,
        description="Folders put in front of PATH for jobs. With SSH those of the machine's own block come next.",
        examples=[["/home/me/project/.venv/bin"]],
    )
    env: dict[str, str] = Field(default_factory=dict, description="Variables for jobs. No secrets.")
    bin_folder: str = Field(
        default="", description="Folder of qsub and qstat; empty: they are on PATH.", examples=["/opt/pbs/bin"]
    )
    max_jobs: int = Field(default=100, ge=1, description="Jobs that may be in the queue at once, running or waiting.")
    factor: float = Field(
        default=1.0, gt=0, description="How long an experiment takes here, as a multiple of the reference machine."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            self.launcher()
        except Refused as error:
            raise ValueError(str(error)) from None
        return self

    def host_name(self) -> str:
        """Name of the queue in the ledger."""
        return self.name

    def request(self) -> PbsRequest:
        """What is asked of PBS for every job.

        Raises:
            Refused: a field can never work.
        """
        return PbsRequest(
            queue=self.queue,
            project=self.project,
            account=self.account,
            storage=tuple(self.storage),
            style=self.style,
            chunk=self.chunk,
            place=self.place,
            disk=self.disk,
            memory_mb=self.memory_mb,
            rerun=self.rerun,
            modules=tuple(self.modules),
            directives=tuple(self.directives),
        )

    def where(self) -> Place:
        """Where its commands are run.

        Raises:
            Refused: a field can never work.
        """
        return place_of(self.name, self.ssh.host() if self.ssh else None, self.path, self.env)

    def launcher(self) -> QueueLauncher:
        """The launcher for this cluster.

        Raises:
            Refused: a field can never work.
        """
        place = self.where()
        scheduler = PbsScheduler(self.name, self.request(), place.run, self.bin_folder)
        return QueueLauncher(self.name, scheduler, place, max_jobs=self.max_jobs, factor=self.factor)
