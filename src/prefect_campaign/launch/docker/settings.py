"""What is set for a Docker engine and the containers in it, and what the engine says of itself (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DOCKER = "docker"
"""The launcher's name in handles."""

MEMORY_SHARE = 0.75
SPARED_CPUS = 2
SHM_MB = 8192
PIDS = 1000
OPEN_FILES = 65536
STOP_SECONDS = 10

_QUOTAS = frozenset({"btrfs", "zfs", "devicemapper", "windowsfilter"})
"""Storage drivers that can always limit what a container writes into its own layer."""


@dataclass(frozen=True)
class DockerSettings:
    """How attempts run in containers of one engine of this machine.

    Its ``repr`` names all that a check of the machine depends on.
    """

    image: str
    client: Callable[[], Any] = field(repr=False, compare=False)
    """Makes a client of the Docker SDK (``docker.DockerClient``)."""
    address: str = "unix:///var/run/docker.sock"
    """Of the engine, for people."""
    pull: Literal["missing", "never"] = "missing"
    memory_mb: int | None = None
    """None: three quarters of the machine's."""
    cpus: float | None = None
    """None: all but two."""
    shm_mb: int = SHM_MB
    pids: int = PIDS
    open_files: int = OPEN_FILES
    disk_mb: int | None = None
    network: str = "none"
    stop_seconds: int = STOP_SECONDS
    data: Mapping[str, str] = field(default_factory=dict)
    """Folder here -> where it is read inside; empty: the same path."""
    writable_code: bool = False
    user: str = ""
    """``uid:gid``; empty: whoever runs the campaign."""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names of variables of this process that jobs get without anybody seeing them from outside."""
    slots: int | None = field(default=None, repr=False)
    reserve: tuple[str, ...] = field(default=(), repr=False)
    keep_free: int = field(default=0, repr=False)
    factor: float = field(default=1.0, repr=False)


@dataclass(frozen=True)
class Scope:
    """Whose containers they are; none of anybody else is ever cleaned away."""

    campaign: str
    ledger: str
    """Digest that stands for the ledger."""
    url: str = field(default="", repr=False)
    """Of the ledger, which says what is over; empty: then nothing that runs is ever ended."""


@dataclass(frozen=True)
class Engine:
    """What an engine says of itself."""

    id: str
    version: str
    cpus: int
    memory_mb: int
    storage: str
    backing: str = ""
    """File system below the storage driver."""
    rootless: bool = False
    nvidia: bool = False
    """Whether it names the NVIDIA runtime. Without it, GPUs may work all the same."""
    system: str = "linux"
    warnings: tuple[str, ...] = ()

    @property
    def limits_disk(self) -> bool:
        """Whether its storage driver may be able to limit a container's own disk."""
        return self.storage in _QUOTAS or (self.storage == "overlay2" and self.backing == "xfs")


def engine_of(info: Mapping[str, Any]) -> Engine:
    """An engine by its answer to ``/info``."""
    status = {str(pair[0]): str(pair[1]) for pair in info.get("DriverStatus") or () if len(pair) == 2}
    return Engine(
        id=str(info.get("ID") or ""),
        version=str(info.get("ServerVersion") or "?"),
        cpus=int(info.get("NCPU") or 1),
        memory_mb=int(info.get("MemTotal") or 0) >> 20,
        storage=str(info.get("Driver") or "?"),
        backing=status.get("Backing Filesystem", ""),
        rootless=any("rootless" in str(one) for one in info.get("SecurityOptions") or ()),
        nvidia="nvidia" in (info.get("Runtimes") or {}),
        system=str(info.get("OSType") or "linux"),
        warnings=tuple(str(one) for one in info.get("Warnings") or ()),
    )
