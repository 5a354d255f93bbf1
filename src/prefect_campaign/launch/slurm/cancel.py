"""Ending jobs on one cluster: many in one scancel, only our own, and believed only when seen."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from prefect_campaign.launch.slurm.programs import Programs
from prefect_campaign.launch.slurm.scheduler import Scheduler
from prefect_campaign.launch.slurm.state import OVER, WAITING
from prefect_campaign.launch.slurm.text import Row
from prefect_campaign.launch.slurm.view import grouped, id_text
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.errors import CampaignError, Transient, Unknown

GATHER_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
"""Beyond the grace, until a job that does not end is given back to the caller."""
AGAIN_SECONDS = 10.0
"""Until scancel is called again for a job that goes on as if nothing had been said."""
_LONGEST_PAUSE = 3.0
_WORDS = 500
"""Ids in one scancel; each may stand for many tasks of an array."""


@dataclass(eq=False)
class _Doomed:
    """A job that is to be ended."""

    token: str
    name: str
    base: str
    index: int | None
    grace: float
    began: float
    done: asyncio.Future[None]
    submitted_at: float
    told_at: float | None = None
    killed_at: float = float("-inf")
    absent: int = 0

    @property
    def id(self) -> tuple[str, int | None]:
        return self.base, self.index


@dataclass
class _Round:
    cancel: list[_Doomed] = field(default_factory=list)
    kill: list[_Doomed] = field(default_factory=list)


class Canceller:
    """Ends jobs of one cluster.

    Args:
        name: of the cluster.
        programs: runs scancel.
        scheduler: tells what is still there.
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, name: str, programs: Programs, scheduler: Scheduler, steady: Clock) -> None:
        self._name = name
        self._programs = programs
        self._scheduler = scheduler
        self._steady = steady
        self._doomed: dict[str, _Doomed] = {}
        self._worker: asyncio.Task[None] | None = None

    async def cancel(
        self, token: str, name: str, base: str, index: int | None, grace: float, *, submitted_at: float = 0.0
    ) -> None:
        """End a job, and return once Slurm shows it as over or not at all.

        One that squeue does not show is told to end all the same if the accounts call it alive.

        Raises:
            Transient: Slurm cannot be asked, or the job does not end.
        """
        loop = asyncio.get_running_loop()
        one = self._doomed.get(token)
        if one is None:
            one = _Doomed(token, name, base, index, grace, self._steady(), loop.create_future(), submitted_at)
            self._doomed[token] = one
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        await asyncio.shield(one.done)

    def close(self) -> None:
        """Stop waiting for ends; what was told to end ends."""
        if self._worker is not None and not self._worker.get_loop().is_closed():
            self._worker.cancel()
        for one in self._doomed.values():
            if not one.done.done() and not one.done.get_loop().is_closed():
                one.done.cancel()
        self._doomed.clear()

    async def _work(self) -> None:
        pause = GATHER_SECONDS
        while self._doomed:
            await asyncio.sleep(pause)
            before = len(self._doomed)
            try:
                await self._round()
            except CampaignError as error:
                self._fail(self._doomed.values(), error)
            except Exception as error:  # else nobody would ever be told
                self._fail(self._doomed.values(), Transient(f"{self._name}: jobs cannot be cancelled: {error!r}"))
            fresh = any(one.told_at is None for one in self._doomed.values())
            moved = len(self._doomed) < before
            pause = GATHER_SECONDS if fresh else min(_LONGEST_PAUSE, max(0.1, pause if moved else 1.5 * pause))

    async def _round(self) -> None:
        """Look, tell those that must end, and believe those that have."""
        now = self._steady()
        waiting = list(self._doomed.values())
        view = await self._scheduler.queue({one.name for one in waiting})
        due = _Round()
        for one in waiting:
            self._sort(one, view.row(one.name, one.base, one.index), now, due)
        due.cancel += await self._hidden([one for one in waiting if one.absent > 1 and one.told_at is None])
        for one in waiting:
            if one.absent > 1 and one not in due.cancel:
                self._over(one)
        await self._tell([], due.cancel)
        await self._tell(["--signal=KILL", "--full"], due.kill)
        for one in due.cancel:
            one.told_at = now
        for one in due.kill:
            one.killed_at = now

    def _sort(self, one: _Doomed, row: Row | None, now: float, due: _Round) -> None:
        if row is None:
            # A whole answer without it: twice, for it may have been handed over only now.
            one.absent += 1
            return
        one.absent = 0
        if row.state in OVER:
            self._over(one)
        elif now - one.began > one.grace + PATIENCE_SECONDS:
            what = f"{one.token}: job {id_text(one.base, one.index)} on {self._name}"
            self._fail([one], Transient(f"{what} is {row.state} though it was cancelled; look at it with scontrol"))
        elif one.told_at is None or now - one.told_at > AGAIN_SECONDS:
            due.cancel.append(one)
        elif row.state not in WAITING and now - max(one.told_at + one.grace, one.killed_at + AGAIN_SECONDS) >= 0:
            due.kill.append(one)

    async def _hidden(self, absent: list[_Doomed]) -> list[_Doomed]:
        """Those that the accounts call alive; if these cannot be asked, squeue is believed."""
        with suppress(CampaignError):
            since = min((one.submitted_at for one in absent), default=0.0)
            view = await self._scheduler.accounts(ids=[one.base for one in absent], since=since)
            rows = [(one, view.row(one.name, one.base, one.index)) for one in absent]
            return [one for one, row in rows if row is not None and row.state not in OVER]
        return []

    async def _tell(self, options: list[str], doomed: list[_Doomed]) -> None:
        """Call scancel; whatever it answers, only a look shows what came of it.

        By ids alone, which were just seen to be our user's and to have our names: with a filter such as ``--user``,
        Slurm (seen in 22.05) ends all waiting tasks of an array when one of them is named.
        """
        words = grouped(one.id for one in doomed)
        for start in range(0, len(words), _WORDS):
            try:
                await self._programs.run(["scancel", *options, *words[start : start + _WORDS]])
            except (Transient, Unknown):
                continue

    def _over(self, one: _Doomed) -> None:
        self._doomed.pop(one.token, None)
        if not one.done.done():
            one.done.set_result(None)

    def _fail(self, doomed: Iterable[_Doomed], error: CampaignError) -> None:
        for one in list(doomed):
            self._doomed.pop(one.token, None)
            if not one.done.done():
                one.done.set_exception(error)
                one.done.exception()  # whoever asked may be gone
