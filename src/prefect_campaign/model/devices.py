"""What a host has: its GPUs as a driver reports them, who uses them, and how many processor slots there are.

All memory is in MiB, as NVML and ``nvidia-smi`` count it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuProcess:
    """A process that has memory on a GPU."""

    pid: int
    used_mb: int | None
    """None where the driver does not tell, for example inside a container."""
    user: str = "?"
    command: str = "?"
    graphics: bool = False
    """Whether it only draws (a display server); such a process does not make a GPU busy."""
    run_dir: str | None = None
    """Run dir of the attempt that it works for, as the ledger has it, if its environment tells: on the machine of the
    campaign ``CAMPAIGN_RUN_DIR``, elsewhere ``CAMPAIGN_ORIGIN``."""


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment."""

    uuid: str
    index: int
    """Its place in PCI order on its host now; it may change when a GPU is lost, the UUID never does."""
    name: str = "?"
    total_mb: int = 0
    used_mb: int = 0
    utilisation: int | None = None
    """Percent."""
    temperature: int | None = None
    """Degrees Celsius."""
    ecc_errors: int | None = None
    """Uncorrected errors since the driver was loaded; None without ECC."""
    mig: bool = False
    processes: tuple[GpuProcess, ...] = ()
    problem: str = ""
    """Why it must not be used, one line for people; empty if it can be. A GPU that cannot be read is not free."""
    number: int | None = None
    """Its index when it was first seen on its host; None: not known to be another one than now."""
    missing: bool = False
    """Whether it is only known from before, and not there."""

    @property
    def named(self) -> int:
        """The number that means it in ``reserve``, ``avoid`` and ``CUDA_VISIBLE_DEVICES``."""
        return self.index if self.number is None else self.number

    @property
    def free_mb(self) -> int:
        """Memory that nobody has allocated."""
        return max(0, self.total_mb - self.used_mb)


@dataclass(frozen=True)
class Card:
    """A GPU that was seen on a host, and the number that it had there first."""

    uuid: str
    number: int
    name: str = "?"
    total_mb: int = 0


@dataclass(frozen=True)
class HostView:
    """One host at one moment."""

    host: str
    """Its name in the ledger: one for each machine, whoever looks at it."""
    slots: int
    """How many experiments without GPUs may run at once; each may take several where they are its `cores`."""
    gpus: tuple[Gpu, ...] = ()
    """In PCI order; empty on a machine without any, which is fine."""
    problem: str = ""
    """Why nothing can be placed there now, one line for people; empty if it can be."""
    gpu_problem: str = ""
    """Why its GPUs cannot be used, for example a driver that does not answer; its slots can be."""
    factor: float = 1.0
    """How long an experiment takes here / on the reference host."""
    launcher: str = "local"
    """Name of the launcher that runs jobs there."""
    queue: bool = False
    """Whether a scheduler gives out its GPUs and processors: `slots` is how many jobs it may be handed at once."""
    driver: str = ""
    cuda: str = ""
    reserve: frozenset[str] = field(default_factory=frozenset)
    """Indices or UUIDs (as text) that the host keeps for development."""
    keep_free: int = 0
    """How many of its usable GPUs are always left free for people."""
    seen_at: float = 0.0
    """Seconds since the epoch."""
    cores: bool = False
    """Whether its slots are its processors, as nobody has said how many experiments may run at once."""

    def width(self, cpus: int) -> int:
        """How many of its slots an experiment takes that asks for so many processors; all of them if it has fewer."""
        return max(1, min(cpus, self.slots)) if self.cores else 1
