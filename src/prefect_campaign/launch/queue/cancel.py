"""Ending jobs of a scheduler: asked for many at once, and believed only when it is seen."""

import asyncio

from prefect_campaign.launch.queue.jobs import Scheduler
from prefect_campaign.launch.queue.view import QueueView
from prefect_campaign.model.errors import CampaignError, Transient

GATHER_SECONDS = 0.05
"""Jobs that are cancelled within this time go in one call."""

AT_ONCE = 200
"""Jobs in one call."""

_SLACK_SECONDS = 60.0
"""How long a scheduler may take over the time that a job has to end."""

_TOLD_SECONDS = 5.0
"""A job that was listed, told to end, and is not listed any more is over after so long."""

_FRESH_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class Canceller:
    """Cancels jobs of one scheduler.

    Args:
        queue: name for messages.
        scheduler: whom to tell.
        view: what it says of its jobs.
        absent_seconds: a job that it does not list is not over before it was missing for so long.
        slack_seconds: how long it may take over the time that a job has to end.
    """

    def __init__(
        self,
        queue: str,
        scheduler: Scheduler,
        view: QueueView,
        *,
        absent_seconds: float,
        slack_seconds: float = _SLACK_SECONDS,
    ) -> None:
        self._queue = queue
        self._scheduler = scheduler
        self._view = view
        self._absent = absent_seconds
        self._slack = slack_seconds
        self._doomed: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._gathering: asyncio.Task[None] | None = None

    async def end(self, token: str, job_id: str, grace_seconds: float) -> None:
        """End one job.

        It is told to end only if the scheduler says that the id is this job's: an id may be somebody else's by now.

        Raises:
            Transient: it is not over, or nobody can say.
        """
        self._view.follow(token, job_id)
        await asyncio.sleep(GATHER_SECONDS)  # those that are cancelled along with it are seen in the same look
        if await self._is_over(token, job_id, _FRESH_SECONDS, self._absent):
            return
        await self._tell(token, job_id)
        loop = asyncio.get_running_loop()
        patience = grace_seconds + self._slack
        deadline, pause = loop.time() + patience, _FIRST_PAUSE
        while not await self._is_over(token, job_id, pause / 2, min(self._absent, _TOLD_SECONDS)):
            if loop.time() > deadline:
                raise Transient(
                    f"{token}: {self._queue} still has job {job_id} {patience:.0f} s after it was told to end it; "
                    "look at it, then cancel again"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _is_over(self, token: str, job_id: str, age: float, absent_seconds: float) -> bool:
        """Whether it is; one that is not listed is looked for again, until it was missing for long enough."""
        loop = asyncio.get_running_loop()
        first, pause = float("inf"), _FIRST_PAUSE
        while True:
            report = (await self._view.reports({token: job_id}, age))[token]
            if report.entry is not None:
                return report.entry.status == "ended"
            if not report.absent:
                raise Transient(f"{token}: {report.why}; cancel again")
            said_at = loop.time() - report.age
            if said_at - first >= max(absent_seconds, _FIRST_PAUSE / 2):
                return True
            first = min(first, said_at)
            await asyncio.sleep(pause)
            age, pause = pause / 2, min(2 * pause, _LONGEST_PAUSE)

    async def _tell(self, token: str, job_id: str) -> None:
        if job_id not in self._doomed:
            self._doomed[job_id] = (token, asyncio.get_running_loop().create_future())
        told = self._doomed[job_id][1]
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.get_running_loop().create_task(self._tell_all())
        try:
            await asyncio.shield(told)
        except CampaignError as error:
            raise Transient(f"{token}: {error}; cancel again") from error

    async def _tell_all(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        while self._doomed:
            some = dict(list(self._doomed.items())[:AT_ONCE])
            for job_id in some:
                del self._doomed[job_id]
            problem: BaseException | None = None
            try:
                await self._scheduler.cancel({job_id: token for job_id, (token, _) in some.items()})
            except CampaignError as error:
                problem = error
            for _, told in some.values():
                if problem is None:
                    told.set_result(None)
                else:
                    told.set_exception(problem)
                    told.exception()  # whoever waited may have been cancelled: then nobody asks for it
