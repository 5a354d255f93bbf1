"""How attempts ended, handed to whoever waits for it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from prefect_campaign.model.states import ExperimentState


@dataclass(frozen=True)
class AttemptEnd:
    """What a waiting task run is told: the attempt is over, and what comes next."""

    exp_id: str
    attempt: int
    state: ExperimentState
    """`queued`: another attempt follows."""
    reason: str
    objective_value: float | None = None
    has_course: bool = False
    """Whether it may have reported a metric more than once, so that there is a course to judge."""


class Ends:
    """The ends of one dispatcher's attempts, kept until they are asked for."""

    def __init__(self) -> None:
        self.on_end: Callable[[AttemptEnd], None] = lambda end: None
        self._inbox: dict[str, asyncio.Queue[AttemptEnd]] = defaultdict(asyncio.Queue)

    def tell(self, end: AttemptEnd) -> None:
        """An attempt's end is on record."""
        self._inbox[end.exp_id].put_nowait(end)
        self.on_end(end)

    async def next(self, exp_id: str) -> AttemptEnd:
        """The end of the experiment's current attempt; each end is handed out once, in order."""
        return await self._inbox[exp_id].get()
