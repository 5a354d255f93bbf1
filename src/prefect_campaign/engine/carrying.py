"""Checkpoints follow their experiment: an attempt on another machine than the one before it finds them there."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.hold import Hold
from prefect_campaign.launch.checkpoints import Checkpoints, Files, HasCheckpoints, files_here
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.batches import hosts_before
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.queued import explain
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import CampaignError, Transient
from prefect_campaign.model.records import AttemptSpec

EVENT = "checkpoints"
"""Kind of the event that says what became of them."""
THERE = "goes on with those that are there already"
ANEW = "starts anew"
_TRIES = 2
"""A copy that breaks off goes on once more."""

SETTLE_SECONDS = 120.0
"""So long a single tick waits for copies; the next one goes on with them."""

log = logging.getLogger("prefect_campaign")


class _TargetError(Transient):
    """The machine that checkpoints are brought to is in trouble, not the one that has them."""


class Carrier:
    """The attempts of one dispatcher that wait for their checkpoints.

    Args:
        hold: the campaign.
        launcher: its machines.
        woken: called when there is something to take.
    """

    def __init__(self, hold: Hold, launcher: Launcher, woken: Callable[[], None]) -> None:
        self._hold = hold
        self._members = launcher.members if isinstance(launcher, Fleet) else {}
        self._woken = woken
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._over: list[AttemptSpec] = []
        self._settled: set[str] = set()
        """Tokens of attempts whose checkpoints are where they can be."""

    def __len__(self) -> int:
        return len(self._tasks) + len(self._over)

    def begin(self, spec: AttemptSpec) -> bool:
        """See beside everything else that an attempt has its checkpoints; whether it has to wait for that."""
        if spec.attempt == 1 or spec.token in self._settled or not self._members:
            return False
        with Reader(self._hold.ledger.url) as reader:
            hosts = hosts_before(reader, self._hold.campaign_id, spec.exp_id, spec.attempt)
        if all(self._is_same(host, spec) for host in hosts):
            return False
        self._tasks[spec.token] = asyncio.create_task(self._look_after(spec, hosts))
        return True

    def take(self) -> list[AttemptSpec]:
        """Those that need not wait any longer."""
        taken, self._over = self._over, []
        return taken

    def cut(self) -> None:
        """Copy no further: nothing is to be started any more."""
        for task in self._tasks.values():
            task.cancel()

    async def settle(self) -> None:
        """Wait, for a while, until none waits any longer."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=SETTLE_SECONDS)

    async def close(self) -> None:
        """Stop copying; the next dispatcher goes on with it."""
        await stop(*self._tasks.values())

    async def _look_after(self, spec: AttemptSpec, hosts: Sequence[str]) -> None:
        try:
            problems, what = await self._brought(spec, hosts)
            if what:
                told = "; ".join((*problems, what))
                log.log(logging.WARNING if problems else logging.INFO, "%s: %s", spec.token, told)
                with self._hold.write() as connection:
                    where = self._hold.campaign_id, self._hold.now(), "dispatcher", EVENT
                    add_event(connection, *where, hosts[0], spec.host, told, spec.exp_id, {"attempt": spec.attempt})
        except Exception as error:  # whatever it is, the attempt starts with what there is
            log.warning("%s: its checkpoints could not be looked after: %s", spec.token, error)
        finally:
            del self._tasks[spec.token]
            self._settled.add(spec.token)
            self._over.append(spec)
            self._woken()

    async def _brought(self, spec: AttemptSpec, hosts: Sequence[str]) -> tuple[list[str], str]:
        """Bring what the latest attempt left that can be had.

        Returns:
            What could not be had, and what the attempt starts with; that is empty if nothing is worth telling.
        """
        problems: list[str] = []
        for host in hosts:
            try:
                if host not in self._members and host != host_name():
                    raise Transient(f"host {host} is not among the campaign's machines any more")
                found = await self._files(host, spec)
                if found:
                    came = "" if self._is_same(host, spec) else await self._carried(spec, host, found)
                    return problems, came or (THERE if problems else "")
            except _TargetError as error:  # older ones of another host would not get there either
                return [*problems, f"checkpoints cannot be brought to {spec.host}: {error}"], await self._left(spec)
            except CampaignError as error:
                problems.append(f"checkpoints on {host} cannot be had: {error}")
        return problems, (await self._last_resort(spec) if problems else "")

    async def _left(self, spec: AttemptSpec) -> str:
        """What an attempt starts with to whose machine nothing can be brought."""
        try:
            return THERE if await self._files(spec.host, spec) else ANEW
        except CampaignError:
            return ANEW

    async def _last_resort(self, spec: AttemptSpec) -> str:
        """An older copy that once came through here, for a host that has none."""
        try:
            if await self._files(spec.host, spec):
                return THERE
            found = await self._files("", spec)
            return await self._carried(spec, "", found) if found else ANEW
        except CampaignError as error:
            return f"{ANEW} ({error})"

    async def _carried(self, spec: AttemptSpec, host: str, found: Files) -> str:
        """Bring them from a host (empty: from here), by way of here; empty if they were there."""
        for left in reversed(range(_TRIES)):
            try:
                with _at_target():
                    there = await self._files(spec.host, spec)
                if there == found:
                    return ""
                what = f"checkpoints ({found.count} files, {found.size / 1e6:.1f} MB)"
                self._tell(spec, f"waits: {what} are brought to {spec.host}")
                source, target = self._there(host, spec), self._there(spec.host, spec)
                if source is not None and await self._files("", spec) != found:
                    await source.fetch(spec)
                if target is not None:
                    with _at_target():
                        await target.send(spec)
                return f"{what} came from {host or 'here'}"
            except Transient:
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def _files(self, host: str, spec: AttemptSpec) -> Files:
        there = self._there(host, spec)
        if there is not None:
            return await there.files(spec)
        try:
            return await asyncio.to_thread(files_here, Path(spec.checkpoint_dir))
        except OSError as error:
            raise Transient(f"{spec.checkpoint_dir} cannot be read: {error.strerror}") from error

    def _there(self, host: str, spec: AttemptSpec) -> Checkpoints | None:
        """A host's checkpoints of an experiment; None if they are here."""
        member = self._members.get(host)
        found = member.checkpoints if isinstance(member, HasCheckpoints) else None
        return found if found is not None and found.elsewhere(spec) else None

    def _is_same(self, host: str, spec: AttemptSpec) -> bool:
        """Whether a host has the very folder that the attempt will have."""
        known = host in self._members or host == host_name()
        here = self._there(host, spec) is None and self._there(spec.host, spec) is None
        return host == spec.host or (known and here)

    def _tell(self, spec: AttemptSpec, why: str) -> None:
        """Let people see why it does not start."""
        with self._hold.write() as connection:
            explain(connection, self._hold.campaign_id, {spec.exp_id: why}, now=self._hold.now())


@contextmanager
def _at_target() -> Iterator[None]:
    try:
        yield
    except CampaignError as error:
        raise _TargetError(str(error)) from error
