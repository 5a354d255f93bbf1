"""The hosts of a campaign as they were last seen, kept fresh beside the dispatcher."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.outcomes import QUEUE_FULL
from prefect_campaign.engine.queue_room import RECALLED_SECONDS, QueueRoom
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.fleet import Fleet, queues_of
from prefect_campaign.launch.gpus.numbers import Numbered, Numbers
from prefect_campaign.launch.identity import LOCAL
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import gpu_numbers
from prefect_campaign.ledger.leases import Lease
from prefect_campaign.ledger.queued import refused
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Refused
from prefect_campaign.placement.demand import Held
from prefect_campaign.placement.peaks import Peaks

FRESH_SECONDS = 2.0
"""An older look is repeated before GPUs are placed by it."""
STALE_SECONDS = 60.0
"""A host that nobody could look at for so long has nothing placed on it."""

log = logging.getLogger("prefect_campaign")


class Hosts:
    """What is known of the machines that a launcher runs jobs on.

    Args:
        launcher: looks at them.
        slots: how many experiments without GPUs may run at once, as the campaign says; None: as the host has slots.
        ledger: keeps the numbers of their GPUs.
    """

    def __init__(self, launcher: Launcher, slots: int | None, ledger: Ledger) -> None:
        if isinstance(launcher, Numbered):
            launcher.number_by(Numbers(partial(gpu_numbers.keep, ledger)))
        self.on_news: Callable[[], None] = lambda: None
        """Called in the event loop when a look in the background is over."""
        self.on_seen: Callable[[Sequence[HostView]], None] = lambda views: None
        """Called with what every look has shown."""
        self.seen: tuple[HostView, ...] = ()
        """As they are."""
        self.failed: Mapping[str, str] = {}
        """Host -> why it is not fit for the campaign's experiments: waiting for it would be in vain."""
        self.hopeless = ""
        """Why no host will ever run one; empty if any may."""
        self._shut: Mapping[str, str] = {}
        self.extra: Mapping[tuple[str, str], int] = {}
        """(host, UUID) -> MiB that others' processes have shown at their peak, beyond what they use now."""
        self._launcher = launcher
        self._slots = slots
        self._ledger = ledger
        self._clock = ledger.clock
        self._views: tuple[HostView, ...] = ()
        self._room: dict[str, QueueRoom] = {}
        """Of the queues that have said that they are full."""
        self._recalled: set[str] = set()
        """Queues of which it was looked up whether they said so to an earlier process."""
        self._peaks = Peaks()
        self._seen_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """See every host now."""
        seen = await self._launcher.look()
        if self._slots is not None and len(seen) == 1 and not seen[0].queue:
            seen = [dataclasses.replace(seen[0], slots=self._slots, cores=False)]
        self._recall({view.host for view in seen if view.queue} - self._recalled)
        self._take_in(tuple(seen))
        self.extra = self._peaks.seen(self.seen)
        self._seen_at = self._clock()
        self.on_seen(self.seen)

    async def look_at(self, host: str) -> HostView:
        """See one host now.

        Raises:
            Refused: it is none of the campaign's.
            Transient: it cannot be looked at now.
        """
        one = self._launcher.member(host) if isinstance(self._launcher, Fleet) else self._launcher
        found = next((v for v in await one.look() if v.host == host), None)
        if found is None:
            raise Refused(f"host {host!r} is none of the campaign's machines any more")
        self.on_seen((found,))
        return found

    def shut(self, why: Mapping[str, str], failed: Mapping[str, str], hopeless: str) -> None:
        """Say which hosts must not be used now, which of them never, and whether that leaves none."""
        self._shut, self.failed, self.hopeless = why, failed, hopeless
        self._take_in(self.seen)

    def full(self, host: str, jobs: int) -> None:
        """A queue takes no more than the jobs that it has."""
        self._room.setdefault(host, QueueRoom()).full(jobs)

    def refresh(self) -> None:
        """Look again beside everything else, unless that is under way or was just done."""
        if self._looking is None and self._clock() - self._seen_at >= FRESH_SECONDS:
            self._looking = asyncio.create_task(self._look_beside())

    def outdated(self) -> None:
        """Something has ended: what was seen before does not show its memory as free."""
        self._seen_at = 0.0

    @property
    def views(self) -> tuple[HostView, ...]:
        """As they are for placement.

        A host that must not be used now has the reason as its problem, a full queue no slots but those it has given.
        """
        if not self._room:
            return self._views
        return tuple(
            dataclasses.replace(v, slots=self._room[v.host].of(v.slots)) if v.host in self._room else v
            for v in self._views
        )

    @property
    def remote(self) -> bool:
        """Whether there are hosts that can be away, or be used in another way than now."""
        several = isinstance(self._launcher, Fleet) and any(
            isinstance(m, Either) for m in self._launcher.members.values()
        )
        return several or any(v.launcher != LOCAL for v in self.views)

    def queue(self, host: str) -> bool:
        """Whether it is a scheduler's queue, which has nodes of its own."""
        return any(v.queue for v in self.views if v.host == host)

    def factor(self, host: str | None) -> float:
        """How long an experiment takes there / on the reference host."""
        return next((v.factor for v in self.views if v.host == host), 1.0)

    @property
    def queues(self) -> bool:
        """Whether there are schedulers, which must be told how long a job may run."""
        return bool(queues_of(self._launcher))

    def launcher(self, host: str) -> str:
        """Name of the launcher of a host."""
        return next(v.launcher for v in self.views if v.host == host)

    def held(self, leases: Sequence[Lease]) -> list[Held]:
        """The leases with what the driver shows of them already."""
        shown: dict[tuple[str, str, str], int] = {}
        for view in self.views:
            for gpu in view.gpus:
                for process in gpu.processes:
                    if process.run_dir:
                        key = (view.host, gpu.uuid, process.run_dir)
                        shown[key] = shown.get(key, 0) + (process.used_mb or 0)
        return [
            Held(
                host=one.host,
                device=one.device,
                token=one.token,
                vram_mb=one.vram_mb,
                shared=one.shared,
                until=one.until,
                seen_mb=shown.get((one.host, one.device, one.run_dir or ""), 0),
            )
            for one in leases
        ]

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._looking)

    def _recall(self, queues: set[str]) -> None:
        if queues:
            self._recalled |= queues
            now = self._clock()
            with self._ledger.read() as connection:
                found = refused(connection, queues, QUEUE_FULL, now - RECALLED_SECONDS)
            for host, at, jobs in found:
                self._room.setdefault(host, QueueRoom()).full(jobs, max(0.0, now - at))

    def _take_in(self, seen: tuple[HostView, ...]) -> None:
        self.seen = seen
        self._views = tuple(
            dataclasses.replace(v, problem=self._shut[v.host]) if v.host in self._shut and not v.problem else v
            for v in seen
        )

    async def _look_beside(self) -> None:
        try:
            await self.look()
        except Exception as error:  # a look that fails must not end the watching; old views grow stale
            log.warning("hosts could not be looked at: %s", error)
            if self._clock() - self._seen_at > STALE_SECONDS:
                self._take_in(tuple(dataclasses.replace(v, problem=f"not seen: {error}") for v in self.seen))
        finally:
            self._looking = None
        self.on_news()
