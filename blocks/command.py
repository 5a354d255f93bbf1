"""Any other queue, described by its commands."""

from typing import Self

from pydantic import Field, model_validator

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.blocks.ssh import SshMachine
from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.command.settings import MEANINGS, CommandSettings
from prefect_campaign.launch.queue.away import place_of
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Place
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import UNKNOWN_WALL_MINUTES


class CommandQueue(Machine):
    r"""A queue that is used by commands: a vendor's container platform, a site's own wrapper.

    Commands are templates: words with `{fields}`, each filled word one argument; no shell sees them. Patterns are
    regular expressions with named groups, read line by line (`^` and `$` match at lines).

    Example:
        ```python
        from prefect_campaign.blocks import CommandQueue

        queue = CommandQueue(
            name="acme",
            submit=["acme", "run", "--name={name}", "--gpu={gpus}", "--image={image}", "--", "/bin/sh", "{script}"],
            id_pattern=r"^Submitted task (?P<id>\S+)$",
            status=["acme", "ps", "--all"],
            job_pattern=r"^(?P<id>t-\S+) +(?P<name>\S+) +(?P<state>\w+)",
            states={"Queued": "pending", "Active": "running", "Succeeded": "ended", "Error": "failed"},
            cancel=["acme", "stop", "{ids}"],
            image="registry.lab/train:1",
        )
        queue.save("acme")  # then: launcher: command/acme
        ```
    """

    _block_type_name = "Campaign Command Queue"
    _block_type_slug = "campaign-command-queue"
    _description = "Runs experiments on any queue that is used by commands: templates to ask, patterns to read."

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="The queue in tables and in the ledger: lower-case letters, digits, '.' and '-'. Never change it.",
        examples=["acme"],
    )
    submit: list[str] = Field(
        description="Hands a job over. Fields: {script} (needed; run it with /bin/sh), {name} (unique), "
        "{mark} (the same name in another campaign home has another one), {run_dir}, "
        "{workdir}, {gpus}, {cpus}, {memory_mb}, {shm_mb}, {disk_mb}, {minutes}, {walltime} (HH:MM:SS), {exp_id}, "
        "{attempt}, {image}, {storage} and those in `fields`.",
        examples=[["acme", "run", "--name={name}", "--gpu={gpus}", "--mount={storage}", "/bin/sh", "{script}"]],
    )
    status: list[str] = Field(
        description="Lists jobs, in one call however many: all of the user's, or those in {ids} or {names}. A word "
        "with such a field is repeated for each.",
        examples=[["acme", "ps", "--all"]],
    )
    cancel: list[str] = Field(
        description="Ends jobs: {ids} or {names} for many at once, {id} or {name} for one.",
        examples=[["acme", "stop", "{ids}"]],
    )
    logs: list[str] = Field(
        default_factory=list,
        description="Prints what the platform has on job {id} or {name}: kept if a job leaves no record.",
        examples=[["acme", "logs", "{id}"]],
    )
    find: list[str] = Field(
        default_factory=list,
        description="Lists the jobs called {name}, in the form of `status`; needed only if that shows no names.",
    )
    id_pattern: str = Field(
        default=r"(?P<id>\S+)\s*\Z",
        description="Finds (?P<id>...) in what submit prints, by default its last word. Empty: jobs go by {name}.",
        examples=[r"^Submitted task (?P<id>\S+)$"],
    )
    job_pattern: str = Field(
        description="Finds one job in what status prints: (?P<id>...), (?P<state>...), and if there are such "
        "(?P<name>...), (?P<mark>...), (?P<node>...), (?P<reason>...).",
        examples=[r"^(?P<id>t-\S+) +(?P<name>\S+) +(?P<state>\w+) +(?P<node>\S+)"],
    )
    states: dict[str, str] = Field(
        description=f"Their word for a state -> what it means: {', '.join(MEANINGS)}. A word that is not in it changes "
        "nothing and is shown.",
        examples=[{"Queued": "pending", "Active": "running", "Succeeded": "ended", "Error": "failed"}],
    )
    whole_pattern: str = Field(
        default="",
        description="What every whole answer of status has in it, such as its heading. Without it an answer that "
        "lists nothing is not believed.",
        examples=["^TASK "],
    )
    busy_pattern: str = Field(
        default="", description="What submit says if there is no room now; it is then tried again.", examples=["quota"]
    )
    image: str = Field(default="", description="Container image, for {image}.")
    storage: list[str] = Field(default_factory=list, description="Paths or volumes, for {storage}.")
    fields: dict[str, str] = Field(
        default_factory=dict, description="More fields for the templates. No secrets.", examples=[{"team": "vision"}]
    )
    memory_mb: int = Field(default=0, ge=0, description="{memory_mb} for experiments that do not say.")
    minutes: int = Field(default=UNKNOWN_WALL_MINUTES, ge=1, description="{minutes} for experiments that do not say.")
    seconds: float = Field(default=120.0, gt=0, description="A command that takes longer is given up.")
    unlisted_seconds: float = Field(
        default=300.0, ge=60, description="A job that is not listed any more counts as gone after this time."
    )
    job_id_variable: str = Field(
        default="",
        description="Variable in which the platform tells a job its id: a job that it runs again may then go on.",
        examples=["ACME_TASK_ID"],
    )
    ssh: SshMachine | None = Field(
        default=None, description="Machine that the commands are run on; empty: this machine."
    )
    path: list[str] = Field(default_factory=list, description="Folders put in front of PATH for jobs.")
    env: dict[str, str] = Field(default_factory=dict, description="Variables for jobs. No secrets.")
    max_jobs: int = Field(default=20, ge=1, description="Jobs that may be in the queue at once, running or waiting.")
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

    def settings(self) -> CommandSettings:
        """Its commands and patterns.

        Raises:
            Refused: something in them can never work.
        """
        return CommandSettings(
            submit=self.submit,
            status=self.status,
            cancel=self.cancel,
            logs=self.logs,
            find=self.find,
            id_pattern=self.id_pattern,
            job_pattern=self.job_pattern,
            states=dict(self.states),
            whole_pattern=self.whole_pattern,
            busy_pattern=self.busy_pattern,
            image=self.image,
            storage=tuple(self.storage),
            fields=dict(self.fields),
            memory_mb=self.memory_mb,
            minutes=self.minutes,
            seconds=self.seconds,
            job_id_variable=self.job_id_variable,
        )

    def where(self) -> Place:
        """Where its commands are run.

        Raises:
            Refused: a field can never work.
        """
        return place_of(self.name, self.ssh.host() if self.ssh else None, self.path, self.env)

    def launcher(self) -> QueueLauncher:
        """The launcher for this queue.

        Raises:
            Refused: a template or a pattern can never work.
        """
        place = self.where()
        scheduler = CommandScheduler(self.name, self.settings(), place.run)
        patience = Patience(unlisted=self.unlisted_seconds)
        return QueueLauncher(self.name, scheduler, place, max_jobs=self.max_jobs, factor=self.factor, patience=patience)
