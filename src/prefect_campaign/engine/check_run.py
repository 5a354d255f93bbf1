"""The one job that an environment check has at a time: on record before it starts, found again, ended for certain."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from prefect_campaign.engine.attempts import spec_from
from prefect_campaign.engine.hold import Hold
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import host_checks
from prefect_campaign.ledger.host_checks import CheckRow
from prefect_campaign.ledger.leases import Claim
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

LIMIT_SECONDS = 1800.0
"""A job that is not over by then is ended."""
LOOK_SECONDS = 5.0
"""Longest time between two looks at a job."""

Give = Callable[[Any], tuple[AttemptSpec, Claim | None]]
"""Within a transaction: the job and the devices it gets.

Raises `Transient` if there are none for it now.
"""


class Needless(Exception):  # noqa: N818 - not an error: nobody wants to know any more
    """The code has changed, or nothing waits any more."""


class CheckRun:
    """The job of one check.

    Args:
        hold: the campaign.
        launcher: runs it.
        name: of the launcher of that host.
        row: the check, which this campaign has claimed.
        needless: whether nobody wants to know any more what it comes to.
    """

    def __init__(self, hold: Hold, launcher: Launcher, name: str, row: CheckRow, needless: Callable[[], bool]) -> None:
        self.row = row
        self._hold = hold
        self._launcher = launcher
        self._name = name
        self._needless = needless

    @property
    def step(self) -> str:
        """Step of the job that may be running; empty if there is none."""
        return str(self.row.job["step"]) if self.row.job else ""

    async def job(self, step: str, give: Give) -> tuple[AttemptSpec, Observation]:
        """How the job of a step ended: of the one on record if there is one, else of a new one.

        Raises:
            Refused: it cannot be started, or took too long.
            Transient: it could not be started, or there is no device for it now.
            Unknown: it may have been started.
            Needless: it was given up, and ended.
        """
        if self.step not in ("", step):
            await self.clear()
        job, began = self.row.job, bool(self.row.job)
        if not job:
            with self._hold.write() as connection:
                spec, lease = give(connection)
                told = {"step": step, "launcher": self._name, "spec": vars(spec)}
                self.row = host_checks.begin_job(connection, self.row, told, lease, self._hold.now())
            crash_point("check_job_recorded")
        else:
            spec = spec_from(job["spec"])
        handle = handle_of(self.row)
        if handle is None:
            handle = await self._started(spec, look_first=began)
            with self._hold.write() as connection:
                self.row = host_checks.job_started(connection, self.row, vars(handle))
            crash_point("check_job_submitted")
        return spec, await self._end_of(spec, handle)

    async def clear(self) -> None:
        """End whatever job is on record.

        Raises:
            Transient: whether it is over cannot be seen now.
        """
        if self.row.job:
            await end_job(self._launcher, self.row)
            self._over()

    async def _started(self, spec: AttemptSpec, *, look_first: bool) -> Handle:
        found = await self._launcher.find(spec) if look_first else None
        if found:
            return found
        try:
            return await self._launcher.submit(spec)
        except Unknown:
            found = await self._launcher.find(spec)
            if found is None:
                raise
            return found
        except (Transient, Refused):
            self._over()  # nothing was started
            raise

    async def _end_of(self, spec: AttemptSpec, handle: Handle) -> Observation:
        since, pause = (self.row.job or {}).get("since", self._hold.now()), 0.1
        while True:
            seen = (await self._launcher.observe([(spec, handle)]))[spec.token]
            if seen.status in ("exited", "gone"):
                crash_point("check_exit_seen")
                self._over()
                crash_point("check_job_closed")
                return seen
            if self._needless():
                await self.clear()
                raise Needless
            if self._hold.now() - since > LIMIT_SECONDS:
                why = f"did not end within {LIMIT_SECONDS / 60:g} min"
                try:
                    await self.clear()
                except Transient as error:
                    why += f", and may still run ({error})"
                raise Refused(f"{why}; see {spec.run_dir}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_SECONDS)

    def _over(self) -> None:
        with self._hold.write() as connection:
            self.row = host_checks.job_over(connection, self.row)


def handle_of(row: CheckRow) -> Handle | None:
    """How the job of a check is found again; None if that is not known."""
    return Handle(**row.job["handle"]) if row.job and row.job["handle"] else None


async def end_job(launcher: Launcher, row: CheckRow) -> None:
    """See to it that the job of a check is over.

    Raises:
        Transient: that cannot be seen now.
        Unknown: the same.
    """
    if not row.job:
        return
    spec = spec_from(row.job["spec"])
    handle = handle_of(row) or await launcher.find(spec)
    if handle is None:
        return
    await launcher.cancel(spec, handle)
    seen = (await launcher.observe([(spec, handle)]))[spec.token]
    if seen.status not in ("exited", "gone"):
        raise Transient(f"{spec.token}: {seen.detail or 'cannot be ended'}")


async def sweep(launcher: Launcher, hold: Hold, rows: Sequence[CheckRow]) -> None:
    """Give back what jobs hold that nobody looks after: the campaign's own are ended, others once their time is over.

    Raises:
        Transient: a job cannot be seen now; those before it are done.
    """
    for row in rows:
        if not row.job:
            continue
        handle, spec = handle_of(row), spec_from(row.job["spec"])
        handle = handle or await launcher.find(spec)
        if handle is not None:
            seen = (await launcher.observe([(spec, handle)]))[spec.token]
            if seen.status not in ("exited", "gone"):
                mine, late = row.campaign_id == hold.campaign_id, hold.now() - row.job["since"] > LIMIT_SECONDS
                if row.state == host_checks.CHECKING and not (mine or late):
                    continue  # whoever drives that campaign again goes on with it
                await end_job(launcher, row)
        with hold.write() as connection:
            host_checks.job_over(connection, row)
