"""Devices that a killed orchestrator holds come back: not by time, but once nothing of their attempts lives."""

import asyncio
import logging

from prefect_campaign.engine.attempts import spec_from
from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.process import identity_alive
from prefect_campaign.launch.either import handed_to
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.orphans import Orphan, orphans, release_orphan
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Handle

EVERY_SECONDS = 30.0

log = logging.getLogger("prefect_campaign")


class Reclaim:
    """Looks, for a dispatcher that waits for devices, after leases of campaigns that nobody drives.

    Their attempts stay as they are on record: whoever drives such a campaign again finds out how they ended.

    Args:
        hold: the campaign that waits.
        hosts: its machines.
        launcher: looks at the jobs there.
    """

    def __init__(self, hold: Hold, hosts: Hosts, launcher: Launcher) -> None:
        self._hold = hold
        self._hosts = hosts
        self._launcher = launcher
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    def look(self, now: float) -> None:
        """See beside everything else what can be given back, unless that was just done."""
        if self._task is None and now >= self._next:
            self._next = now + EVERY_SECONDS
            self._task = asyncio.create_task(self._look_beside())

    async def reclaim(self) -> list[str]:
        """Release what belongs to attempts that are surely over; returns their tokens."""
        ledger, now = self._hold.ledger, self._hold.now()
        # As they are: one that is shut until its check has passed may need just these devices for its dry run.
        by_host = {v.host: v.launcher for v in self._hosts.seen if not v.problem}
        with ledger.read() as connection:
            found = orphans(connection, by_host, self._hold.campaign_id, now=now, alive=identity_alive)
        over = [one for one in found if await self._surely_over(one, by_host[one.host])]
        if over:
            with ledger.write() as connection:
                over = [one for one in over if release_orphan(connection, one, now=now)]
        return [one.token for one in over]

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._task)

    async def _look_beside(self) -> None:
        try:
            for token in await self.reclaim():
                log.warning("%s: nobody drives its campaign and nothing of it lives; its devices are free", token)
                self._hosts.on_news()
        except Exception as error:  # whatever it is, the devices simply stay taken
            log.warning("leases of others could not be looked at: %s", error)
        finally:
            self._task = None

    async def _surely_over(self, one: Orphan, preferred: str) -> bool:
        """Whether nothing of it lives; not if a launcher may have started it that is not at hand here."""
        kinds = self._launcher.kinds(one.host) if isinstance(self._launcher, Fleet) else {preferred}
        try:
            spec = spec_from(one.spec)
            return {one.launcher, *handed_to(spec)} <= kinds and await self._over(one, spec)
        except CampaignError as error:  # the others may be over all the same
            log.debug("%s: cannot be looked at: %s", one.token, error)
            return False

    async def _over(self, one: Orphan, spec: AttemptSpec) -> bool:
        handle = Handle(**one.handle) if one.handle else await self._launcher.find(spec)
        if handle is None:
            return True
        # It may be long over, although its handle was never recorded.
        seen = await self._launcher.observe([(spec, handle)])
        return seen[spec.token].status in ("exited", "gone")
