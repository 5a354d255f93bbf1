"""Waiting for the end of a job."""

import asyncio

from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.model.records import AttemptSpec, Handle


async def ended(launcher: Launcher, spec: AttemptSpec, handle: Handle) -> None:
    """Return as soon as the launcher tells that the job is over."""
    over = asyncio.get_running_loop().create_future()
    launcher.watch(spec, handle, lambda _: None if over.done() else over.set_result(None))
    await over
