"""A short run that shows how much GPU memory experiments of a shape need."""

import asyncio
from dataclasses import dataclass, field

from prefect_campaign.decide.vram import Shape
from prefect_campaign.model.records import AttemptSpec, ExperimentView, Handle
from prefect_campaign.placement.demand import Assignment


@dataclass
class Probe:
    """One short run."""

    key: str
    """Of the shape and the command."""
    spec: AttemptSpec
    exp_id: str
    """The experiment that it stands for."""
    campaign_id: int
    since: float
    """Seconds since the epoch."""
    peak: int = 0
    handle: Handle | None = None
    anyway: bool = False
    """Whether it starts beside whoever is on its GPUs."""
    stop: str = ""
    """Why it must not go on."""
    late: bool = False
    """Whether that is because it took too long, which says something about its shape."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its job runs, or is known not to be able to run yet."""


@dataclass(frozen=True)
class Placed:
    """A probe and the GPUs that it gets."""

    view: ExperimentView
    """The experiment that it stands for."""
    shape: Shape
    place: Assignment
    vram_mb: int | None
    """MiB of each GPU; None: all of it."""
    shared: bool
    anyway: bool
    """Whether people want it to start beside whoever is there."""
