"""Starting many attempts: together where a launcher can, else one after the other, each with a result of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from prefect_campaign.launch.protocol import Launcher, StartsMany
from prefect_campaign.model.errors import CampaignError, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

log = logging.getLogger("prefect_campaign")

Submit = Callable[[AttemptSpec], Awaitable[Handle]]


async def submit_many(launcher: Launcher, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
    """Token -> its handle, or the error that `submit` would have raised for it."""
    if isinstance(launcher, StartsMany):
        return await launcher.submit_all(specs)
    return {spec.token: await _result(launcher.submit, spec) for spec in specs}


async def all_at_once(submit: Submit, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
    """The same by calls that go on beside each other; how many of them do something is for `submit` to limit."""
    results = await asyncio.gather(*(_result(submit, spec) for spec in specs))
    return {spec.token: result for spec, result in zip(specs, results, strict=True)}


async def _result(submit: Submit, spec: AttemptSpec) -> Handle | CampaignError:
    try:
        return await submit(spec)
    except CampaignError as error:
        return error
    except Exception as error:  # of one alone: what became of the others must be known
        log.exception("%s: could not be started", spec.token)
        return Unknown(f"{spec.token}: {type(error).__name__}: {error}; it is looked for")
