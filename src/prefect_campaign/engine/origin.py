"""Which commit the experiments of a dispatcher run from; people may commit or edit while it works."""

import asyncio

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.tree import read_tree
from prefect_campaign.model.clock import Clock

AGAIN_SECONDS = 10.0
"""A change is on record with the attempts that start later than this after it."""


class Origin:
    """The work tree's commit, as attempts record it.

    Args:
        workdir: where the command runs.
        clock: seconds since the epoch.
    """

    def __init__(self, workdir: str, clock: Clock) -> None:
        self.name = read_tree(workdir).name
        """With ``-dirty`` if it is not all; None outside git."""
        self._workdir = workdir
        self._clock = clock
        self._read_at = clock()
        self._task: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """Read it again beside everything else, unless that was just done."""
        if self._task is None and self._clock() - self._read_at >= AGAIN_SECONDS:
            self._task = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Stop reading."""
        await stop(self._task)

    async def _read(self) -> None:
        try:
            self.name = (await asyncio.to_thread(read_tree, self._workdir)).name
            self._read_at = self._clock()
        finally:
            self._task = None
