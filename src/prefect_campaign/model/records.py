"""Plain records that the layers hand to each other: attempts, how jobs ended, and views of experiments."""

import os.path
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # pydantic, which the spec is made of, costs `campaign status` a quarter of its time
    from prefect_campaign.model.sweep import Scalar

UNKNOWN_WALL_MINUTES = 720
"""What a scheduler is asked for where nobody knows how long a job takes: 12 hours."""


@dataclass(frozen=True)
class AttemptSpec:
    """All that a launcher needs to know about one attempt. A fix makes a new one; none is ever changed."""

    exp_id: str
    attempt: int
    token: str
    argv: tuple[str, ...]
    env: dict[str, str]
    workdir: str
    run_dir: str
    params: "dict[str, Scalar]"
    seed: int
    host: str = ""
    """Where it runs; empty: wherever its launcher puts it."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that are leased for it; it sees these and no others."""
    vram_mb: int | None = None
    """Memory on each of them that is leased for it, in MiB; None: the whole GPU."""
    time_minutes: float | None = None
    """It is stopped if it runs longer."""
    gpu_count: int = 0
    """How many GPUs it wants; where a queue gives them, `gpus` stays empty."""
    cpus: int | None = None
    """Processors; None: whatever its launcher gives, 1 where a scheduler must be asked for some."""
    memory_mb: int | None = None
    """Of the host, in MiB; None: whatever its launcher gives."""
    shm_mb: int | None = None
    disk_mb: int | None = None
    wall_minutes: int | None = None
    """To be asked of a scheduler."""
    comparable: bool = True
    """False once a fix changed what the experiment measures."""
    changes: tuple[str, ...] = ()
    """What fixes changed against the plan, for people, e.g. ``batch_size 64 -> 32``."""

    @property
    def checkpoint_dir(self) -> str:
        """Where checkpoints are kept: shared by all attempts, so that a retry can resume."""
        return os.path.join(os.path.dirname(self.run_dir), "checkpoints")


@dataclass(frozen=True)
class Handle:
    """How a launcher finds its job again, also from another process."""

    launcher: str
    host: str
    job_id: str
    detail: dict[str, Any] = field(default_factory=dict)
    """Launcher's own, JSON-able: for local jobs pid, start time in clock ticks, boot id."""


@dataclass(frozen=True)
class Observation:
    """What was seen of one job at one moment."""

    status: Literal["pending", "running", "exited", "gone", "unreachable"]
    """`pending`: it waits in a queue. `exited`: the job's own record says how. `gone`: no process and no record of its
    own, which proves only absence, unless `scheduler_state` tells how it ended."""
    exit_code: int | None = None
    signal: int | None = None
    """Set when the exit record shows death by a signal (code > 128)."""
    started_at: float | None = None
    ended_at: float | None = None
    detail: str = ""
    scheduler_state: str | None = None
    """How it ended or what it is doing, in the words of its scheduler, e.g. ``TIMEOUT``; None without one."""
    oom_killed: bool | None = None
    """Whether the kernel or a container engine says that it was killed for want of memory; None: nobody can say."""
    node: str = ""
    """Where it runs, if a scheduler chose that."""
    stuck: bool = False
    """Whether it waits in a queue and will not start unless somebody does something; `detail` says why."""
    quiet_since: float | None = None
    """When a running job last wrote to a log or metric file, as its own host tells, in seconds since the epoch of the
    observer's clock; None if the host did not tell."""
    host_answers: bool = False
    """Whether the host of an `unreachable` job does answer, but cannot say how it is; `detail` says what to do."""


@dataclass(frozen=True)
class Evidence:
    """What a diagnosis may look at, strongest first."""

    exit_code: int | None
    signal: int | None = None
    recorded: bool = True
    """Whether the job left its own exit record."""
    oom_killed: bool | None = None
    scheduler_state: str | None = None
    non_finite: str | None = None
    """Name of a loss or objective metric that was not finite, if any."""
    stderr_tail: str = ""
    stdout_tail: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Why an attempt failed."""

    signature: str
    """Catalog id such as ``cuda_oom``, or ``unknown``, ``no_result``, ``lost``, ``timeout``."""
    cause: str
    """One sentence for people."""
    evidence: str
    """The fact or log line that shows it."""
    sure: bool = True
    """Whether it can be nothing else."""


@dataclass(frozen=True)
class FixRecord:
    """One fix that was tried, and what became of it."""

    attempt: int
    signature: str
    fix: str


@dataclass(frozen=True)
class MetricRow:
    """Metric values that a job reported at one moment."""

    values: dict[str, float]
    """Names to numbers; may hold nan and inf, which the readers judge."""
    step: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class ExperimentView:
    """An experiment as results, decisions and people see it: the plan's entry and its latest attempt."""

    exp_id: str
    phase: str
    stage: str
    stage_index: int
    group: str
    method: str | None
    dataset: str | None
    seed: int
    params: "dict[str, Scalar]"
    state: str
    attempt: int = 0
    launcher: str | None = None
    host: str | None = None
    gpu: str | None = None
    job_id: str | None = None
    run_dir: str | None = None
    command: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    busy_seconds: float = 0.0
    """Run time summed over all attempts."""
    objective_value: float | None = None
    comparable: bool = True
    changes: tuple[str, ...] = ()
    signature: str | None = None
    """Diagnosis of the latest failed attempt."""
    reason: str = ""
    """Why it is in its state, one line."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of every metric."""
    points: int = 0
    """Rows of the metric that was reported most often."""
    purpose: str = ""
    hypothesis: str = ""
    """Note written before launch: why, set-up, expected outcome."""
    result_summary: str = ""
    next_action: str = ""
    notes: str = ""
    parent: str | None = None
    tracking_url: str | None = None
    git_commit: str | None = None
    monitoring: dict[str, Any] = field(default_factory=dict)
    """note, tags, summary, artifacts, skills of the latest analysis."""
