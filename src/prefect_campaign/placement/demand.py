"""What placement is asked and what it answers. Memory in MiB, times in seconds (since the epoch where a moment)."""

from collections.abc import Mapping
from dataclasses import dataclass

AGE_SECONDS = 3600.0
"""Who began to wait in an earlier span of this length goes first, whatever its size."""


def needed_mb(vram_mb: int | None) -> int:
    """MiB that must be free for an estimate of `vram_mb`: 1.2 times as much, rounded up; 0 for a whole GPU."""
    return 0 if vram_mb is None else -(-6 * max(vram_mb, 0) // 5)


@dataclass(frozen=True)
class Demand:
    """An experiment that wants to start. Demands are given in order of wish, the most wanted first."""

    exp_id: str
    gpus: int = 0
    """All on one host; 0: processor slots."""
    vram_mb: int | None = None
    """Per GPU; None: a whole GPU, whatever its size."""
    not_before: float = 0.0
    """A retry waits for its back-off."""
    waiting_since: float = 0.0
    seconds: float | None = None
    """Expected duration on the reference host, if known."""
    slots: int = 1
    """Without GPUs: how many, on a host whose slots are processors; elsewhere one."""
    others: bool = False
    """Whether it is another campaign's, which may see the host's slots in another way."""
    avoid: frozenset[tuple[str, str]] = frozenset()
    """(host, device) or (host, "*") that it must not get, for example after a failed preflight."""

    @property
    def age(self) -> float:
        """Its place in the queue by age; less is older."""
        return self.waiting_since // AGE_SECONDS


@dataclass(frozen=True)
class Held:
    """A lease in the ledger, of any campaign."""

    host: str
    device: str
    """A GPU's UUID, or a slot as ``slot-3``."""
    token: str
    vram_mb: int | None
    """None: the whole GPU."""
    shared: bool = False
    """Whether its campaign allows others beside it."""
    seen_mb: int = 0
    """Memory that the driver already shows for this lease's own processes on that GPU."""
    until: float | None = None
    """Expected end, if known."""


@dataclass(frozen=True)
class Rules:
    """Which GPUs a campaign may use, and how."""

    share: bool = False
    """Several experiments on one GPU, if their memory fits; else one a GPU."""
    reserve: frozenset[str] = frozenset()
    """Never used: ``0`` (that index on every host), ``h1:3`` or a UUID."""
    keep_free: int = 0
    """GPUs of every host, out of those that may be used, that are left to people."""
    avoid: tuple[str, ...] = ()
    """Never used: a host, ``host:index``, or a model's name with ``*`` and ``?`` (upper and lower case alike)."""


@dataclass(frozen=True)
class Assignment:
    """An experiment and what it gets."""

    exp_id: str
    host: str
    devices: tuple[str, ...]
    """UUIDs in the order of their index, or slots."""


@dataclass(frozen=True)
class Placement:
    """What starts now, and why the rest waits."""

    assignments: tuple[Assignment, ...]
    reasons: Mapping[str, str]
    """Of every demand that got nothing, by its id; worked out when it is read."""
    waits: str
    """One line about all that wait, for people; empty if nobody does."""
    never: frozenset[str] = frozenset()
    """Those that no host could take even if all its GPUs were free: too many GPUs, too much memory, all reserved."""
