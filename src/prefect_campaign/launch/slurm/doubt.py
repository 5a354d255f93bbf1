"""A job that is asked for, and what is held back about it."""

from dataclasses import dataclass

from prefect_campaign.launch.slurm.text import Row
from prefect_campaign.launch.slurm.view import id_text
from prefect_campaign.model.records import AttemptSpec, Handle

_ACCOUNTS_AGAIN = 15.0
"""Seconds until the accounts are asked again about the same job; the pause doubles."""


@dataclass(slots=True)
class Doubt:
    """A job that is over, or not to be seen, but of which nothing final can be said yet.

    Times are those of a steady clock.
    """

    since: float
    looks: int = 0
    """Whole answers of squeue without it."""
    serial: int = -1
    """Number of the last of them."""
    final: Row | None = None
    """How it ended, as Slurm says."""
    over_since: float | None = None
    ask_at: float = 0.0
    pause: float = _ACCOUNTS_AGAIN
    accounts: str = ""
    """Why the accounts say nothing; empty if they answered."""
    alive: str = ""
    """State in the accounts of a job that squeue does not show."""


@dataclass(frozen=True)
class Job:
    """A job that is asked for."""

    spec: AttemptSpec
    handle: Handle
    name: str
    base: str
    index: int | None
    submitted_at: float

    @property
    def id(self) -> str:
        """As Slurm writes it."""
        return id_text(self.base, self.index)
