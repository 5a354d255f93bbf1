"""Tasks that run beside the dispatcher's rounds."""

import asyncio
from typing import Any

STOP_SECONDS = 5.0
"""A task that does not heed its cancellation holds nobody up for longer."""


async def stop(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel those that are under way, and wait until they are over; what they raise is nobody's concern any more."""
    under_way = [task for task in tasks if task is not None]
    for task in under_way:
        task.cancel()
    if under_way:
        await asyncio.wait(under_way, timeout=STOP_SECONDS)
