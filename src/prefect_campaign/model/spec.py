"""The campaign spec: one pydantic model for Python, YAML and the UI form alike."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prefect_campaign.model.ids import NAME_PATTERN
from prefect_campaign.model.resources import Model as Model
from prefect_campaign.model.resources import Resources as Resources
from prefect_campaign.model.sweep import Scalar, Sweep
from prefect_campaign.model.template import fields_of
from prefect_campaign.model.text import texts_in, unfit

Selector = dict[str, list[Scalar]]
"""Axis name -> accepted values; ``group`` selects by group. All named axes must match."""

RESERVED_FIELDS = frozenset({"seed", "run_dir", "checkpoint_dir", "exp_id", "attempt"})
"""Template fields that the product fills in by itself."""


ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MACHINES = ("local", "ssh", "docker", "slurm", "pbs", "command")
"""What may stand before the slash of a `launcher` entry."""
LAUNCHER = re.compile(rf"local|({'|'.join(MACHINES)})/[a-z0-9-]+")


def _selector(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: list(v) if isinstance(v, list | tuple | range | set) else [v] for k, v in value.items()}
    return value


class Objective(Model):
    """What is optimised, and what counts as better."""

    metric: str = Field(min_length=1, description="Metric name, e.g. final/accuracy.")
    mode: Literal["max", "min"] = "max"
    baseline: float | None = Field(default=None, description="Reported value to beat where no baseline is run.")
    min_delta: float = Field(default=0.01, ge=0, description="Least improvement that counts, in metric units.")
    noise_floor: float = Field(default=0.0, ge=0, description="Differences below this are noise.")
    target: float | None = Field(default=None, description="Good enough: iteration stops here.")


class Group(Model):
    """A set of experiments with one purpose."""

    only: Selector = Field(default_factory=dict, description="Which experiments of the sweep belong to it.")
    purpose: str = ""
    if_fails: str = Field(default="", description='For pilots: "if this fails it means ..."')

    @field_validator("only", mode="before")
    @classmethod
    def _only(cls, value: Any) -> Any:
        return _selector(value)


class Check(Model):
    """One dimension that a pilot stage judges (a "pilot" in the field's words)."""

    name: str = Field(pattern=NAME_PATTERN)
    dimension: str = "core mechanism"
    only: Selector = Field(default_factory=dict, description="The candidates; default: group main.")
    against: Selector | None = Field(
        default=None, description="What they must beat, e.g. an ablation; default: the best baseline."
    )
    mandatory: bool = True
    core: bool = False
    claim: Literal["improvement", "equality"] = "improvement"
    if_fails: str = ""

    @field_validator("only", "against", mode="before")
    @classmethod
    def _only(cls, value: Any) -> Any:
        return _selector(value)


class Stage(Model):
    """One gated part of the pilot phase, or the full phase."""

    name: str = Field(pattern=NAME_PATTERN)
    only: Selector = Field(default_factory=dict, description="Part of the sweep that this stage runs.")
    args: dict[str, Scalar] = Field(default_factory=dict, description="Template fields set for this stage.")
    core: Selector | None = Field(default=None, description="Short for one core check on these candidates.")
    checks: list[Check] = Field(default_factory=list)
    scale: float | None = Field(
        default=None,
        gt=0,
        description="Work of a full experiment / work of one here; estimates the full cost.",
    )

    def __init__(self, name: str | None = None, /, **data: Any) -> None:
        # Stage("minimal", only=...) reads better in a spec than Stage(name="minimal", ...).
        super().__init__(**({"name": name, **data} if name is not None else data))

    @field_validator("only", "core", mode="before")
    @classmethod
    def _only(cls, value: Any) -> Any:
        return _selector(value)

    @property
    def all_checks(self) -> list[Check]:
        """The stage's checks; by default one core check on group main."""
        if self.core is not None:
            return [Check(name="core", core=True, only=self.core), *self.checks]
        return self.checks or [Check(name="core", core=True)]


class Budget(Model):
    """What the campaign may spend; reached = nothing new is started."""

    hours: float | None = Field(
        default=None, gt=0, description="Device hours (of experiments without GPUs their hours)."
    )
    price_per_hour: float | None = Field(default=None, ge=0, description="Shown at the gate.")
    currency: str = "USD"


class GpuPolicy(Model):
    """Which GPUs may be used, and how."""

    share: bool = Field(default=False, description="Several experiments on one GPU, if their memory fits.")
    reserve: list[str | int] = Field(
        default_factory=list, description="Never used: index, host:index or UUID of a GPU.", examples=[["0", "h1:3"]]
    )
    keep_free: int = Field(default=0, ge=0, description="GPUs of every host that are left to people.")
    avoid: list[str] = Field(
        default_factory=list, description="Never used: a host, host:index, or a model's name with * and ?."
    )


class Policy(Model):
    """How to react, and when to stop."""

    pilot_retries: int = Field(default=2, ge=0, le=20)
    full_retries: int = Field(default=3, ge=0, le=20)
    retry_delay_seconds: float = Field(default=1.0, ge=0, description="Doubles with every attempt.")
    retry_hours: float = Field(default=24.0, gt=0, description="Limit over all attempts of one experiment.")
    max_parallel: int | None = Field(
        default=None, ge=1, description="Experiments at once; default: as processors suffice."
    )
    max_experiments: int = Field(default=1000, ge=1)
    budget: Budget = Budget()
    gpus: GpuPolicy = GpuPolicy()
    dry_run: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Extra arguments with which the command only tries out whether it works; each machine must pass "
        "that before it gets experiments.",
        examples=[["--dry-run"]],
    )
    allow_dirty: bool = Field(
        default=False,
        description="Run the full phase although files in git have local changes; the report says which.",
    )
    early_stop_threshold: float = Field(default=0.5, ge=0, description="Points (1/100) below the best baseline.")
    hang_minutes: float = Field(default=30.0, gt=0)
    on_non_finite: Literal["stop", "continue"] = Field(
        default="stop", description="A non-finite loss while running: stop and heal, or only alert."
    )
    flags: dict[str, str] = Field(
        default_factory=dict,
        description="Knob -> the command's own flag (batch_size: --bs); lets fixes add a flag it knows.",
    )


class Tracking(Model):
    """Where runs are followed besides the ledger."""

    wandb: Literal["auto", "offline", "off"] = Field(default="auto", description="auto: online if there is a key.")
    project: str | None = Field(default=None, description="Default: the campaign's name.")
    entity: str | None = None

    @field_validator("wandb", mode="before")
    @classmethod
    def _bare_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as false


class Publish(Model):
    """How the results are offered to others."""

    license: str = "apache-2.0"
    title: str | None = None
    tags: list[str] = Field(default_factory=list)


class Campaign(Model):
    """One research question: what to run, how to judge it, and what it may cost.

    Attributes mirror the YAML keys. Only `name`, `command`, `sweep` and `objective` are needed.
    """

    name: str = Field(pattern=NAME_PATTERN, description="Letters, digits, '.', '_', '-'; at most 40.")
    question: str = Field(default="", description="The research question, in one sentence.")
    command: str | list[str] = Field(description="Argv template with {param}, {seed}, {run_dir}, {checkpoint_dir}.")
    workdir: str = Field(default=".", description="Where the command runs; relative to the spec file.")
    env: dict[str, str] = Field(default_factory=dict, description="Extra environment; no secrets here.")
    args: dict[str, Scalar] = Field(default_factory=dict, description="Template fields that are not swept.")
    sweep: Sweep
    objective: Objective
    groups: dict[Annotated[str, Field(pattern=NAME_PATTERN)], Group] = Field(default_factory=dict)
    pilot: list[Stage] = Field(default_factory=list, max_length=3, description="Default: one stage from the sweep.")
    full: Stage = Field(default_factory=lambda: Stage(name="full"))
    resources: Resources = Resources()
    policy: Policy = Policy()
    launcher: list[str] = Field(
        default=["local"],
        min_length=1,
        description=f"Machines that may be used: local, or {'/<block>, '.join(MACHINES)}/<block>, a Prefect block. "
        "Several for one machine, such as docker/torch and local, are tried in this order.",
    )
    tracking: Tracking = Tracking()
    publish: Publish = Publish()

    @field_validator("launcher", mode="before")
    @classmethod
    def _one_launcher(cls, value: Any) -> Any:
        """One machine need not be a list: ``launcher: ssh/lab-1``."""
        return [value] if isinstance(value, str) else value

    @field_validator("launcher")
    @classmethod
    def _known_launchers(cls, value: list[str]) -> list[str]:
        unknown = next((v for v in value if not LAUNCHER.fullmatch(v)), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no machine; use local or {'/<block>, '.join(MACHINES)}/<block>")
        if len(set(value)) < len(value):
            raise ValueError("names a machine twice")
        return value

    @field_validator("env")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        strange = next((name for name in value if not ENV_NAME.fullmatch(name)), None)
        if strange is not None:
            raise ValueError(f"{strange!r} is not a variable name; use letters, digits and '_'")
        return value

    @field_validator("full", mode="before")
    @classmethod
    def _named_full(cls, value: Any) -> Any:
        return {"name": "full", **value} if isinstance(value, dict) else value

    @field_validator("groups", mode="before")
    @classmethod
    def _short_groups(cls, value: Any) -> Any:
        """A group may be just its selector: ``baseline: {method: [tent]}``."""
        if not isinstance(value, dict):
            return value
        known = set(Group.model_fields)
        return {k: {"only": v} if isinstance(v, dict) and v and not (set(v) & known) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where, text in texts_in(self.model_dump(exclude={"question", "publish"})):  # those are only shown
            if why := unfit(text):
                raise ValueError(f"{where}: {why}")
        names = [s.name for s in (*self.pilot, self.full)]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"pilot: stage name {sorted(twice)[0]!r} is used twice")
        wanted = fields_of(self.command)
        seed_axis = self.sweep.axis_of("seed")
        swept = {a for a in self.sweep.axes if a != seed_axis} | ({"trial"} if self.sweep.optuna_search else set())
        filled = RESERVED_FIELDS | ({seed_axis} if seed_axis else set())
        for stage in (*self.pilot, self.full):
            where = "full" if stage is self.full else f"pilot stage {stage.name!r}"
            unknown = set(stage.args) - wanted - swept
            if unknown:
                raise ValueError(f"{where}: args names {sorted(unknown)[0]!r}, which the command does not use")
            missing = wanted - swept - filled - set(self.args) - set(stage.args)
            if missing:
                known = ", ".join(sorted(swept | filled | set(self.args) | set(stage.args)))
                raise ValueError(f"command: unknown field {{{sorted(missing)[0]}}} ({where}); known fields are {known}")
            for reserved in filled & set(stage.args):
                raise ValueError(f"{where}: {reserved!r} is filled in by the product and cannot be set")
            self._check_selector(stage.only, f"{where}: only", planned=True)
            for check in stage.all_checks:
                self._check_selector(check.only, f"{where}: check {check.name!r}: only")
                self._check_selector(check.against or {}, f"{where}: check {check.name!r}: against")
        for name, group in self.groups.items():
            self._check_selector(group.only, f"groups.{name}.only", planned=True)
        for reserved in filled & (swept | set(self.args)):
            raise ValueError(f"{reserved!r} is filled in by the product and cannot be a parameter")
        self._check_memory(swept | set(self.args) | {name for s in (*self.pilot, self.full) for name in s.args})
        return self

    def _check_memory(self, params: set[str]) -> None:
        """See that fields by which memory is estimated exist."""
        wanted = self.resources
        network = wanted.network
        # Its default need not exist: without activations of a sample no batch is asked for.
        batch = network.batch_size if network and network.sample_mb else None
        named = [("resources.vram_params", n) for n in wanted.vram_params or []]
        named += [("resources.network.batch_size", batch)] if isinstance(batch, str) else []
        for where, name in named:
            if name not in params:
                known = ", ".join(sorted(params)) or "none"
                raise ValueError(f"{where}: {name!r} is no parameter of the campaign; parameters are {known}")

    def _check_selector(self, selector: Selector, where: str, *, planned: bool = False) -> None:
        """See that every axis exists; `planned`: that its values are known before anything is launched."""
        searched = set(self.sweep.axes) if self.sweep.optuna_search else set()
        axes = {*self.sweep.axes, "group", "seed", *(["trial"] if searched else [])}
        for axis in selector:
            if planned and axis in searched:
                raise ValueError(f"{where}: {axis!r} is searched by Optuna and not known before; select by 'trial'")
            if axis not in axes:
                raise ValueError(f"{where}: {axis!r} is not an axis of the sweep; axes are {', '.join(sorted(axes))}")

    def run(self, **options: Any) -> Any:
        """Run the campaign in this process and return its outcome (see `prefect_campaign.flows.campaign`).

        Blocks until the campaign ends; the gate pauses the flow run and is answered in the Prefect UI or by
        ``campaign approve``.
        """
        from prefect_campaign.cli.run import run_here

        return run_here(self, **options)
