"""A scheduler's last answer about all jobs, shared by everybody who wants to know of one."""

import asyncio
from collections.abc import Mapping

from prefect_campaign.launch.poller import FAILED_SECONDS
from prefect_campaign.launch.queue.jobs import Listing, Scheduler
from prefect_campaign.launch.queue.judge import Report
from prefect_campaign.model.clock import Clock, steady_clock
from prefect_campaign.model.errors import CampaignError, Transient

_FIRST_SECONDS = 10.0

CHECK_SECONDS = 60.0
"""How often a scheduler that nobody asks otherwise is asked whether it is there."""


class QueueView:
    """Asks the scheduler, once for all.

    Args:
        queue: name for messages.
        scheduler: whom to ask.
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, queue: str, scheduler: Scheduler, steady: Clock = steady_clock) -> None:
        self._queue = queue
        self._scheduler = scheduler
        self._steady = steady
        self._lock = asyncio.Lock()
        self._open: dict[str, set[str]] = {}
        self._marks: dict[str, str] = {}
        self._asked: frozenset[str] = frozenset()
        self._listing = Listing()
        self._asked_at = self._checked_at = self._failed_at = float("-inf")
        self._error: CampaignError | None = None
        """Why the last question about jobs has no answer."""
        self._away: CampaignError | None = None
        """Why there was none to the last question whether it is there."""
        self._check: asyncio.Task[None] | None = None

    def follow(self, token: str, job_id: str, mark: str = "") -> None:
        """Ask for this job too from now on; with its mark, if that is known, another home's is not taken for it."""
        self._open.setdefault(token, set()).add(job_id)
        if mark:
            self._marks[token] = mark

    def forget(self, token: str) -> None:
        """It is over."""
        self._open.pop(token, None)
        self._marks.pop(token, None)

    async def reports(self, jobs: Mapping[str, str], age: float) -> dict[str, Report]:
        """Token -> what is said of it.

        Args:
            jobs: token -> id of the jobs in question; they are followed from now on.
            age: how many seconds old the answer may be. One from before a job was first asked for never counts, and
                that there was none only for a moment.
        """
        for token, job_id in jobs.items():
            self.follow(token, job_id)
        since = self._steady() - age  # those who waited while it was asked have their answer too
        async with self._lock:
            if self._error is not None:
                known = self._failed_at > max(since, self._steady() - FAILED_SECONDS)
            else:
                known = self._asked_at > since and self._asked.issuperset(jobs.values())
            if not known:
                await self._ask()
            error, listing, asked_at = self._error, self._listing, self._asked_at
        if error is not None:
            return {token: Report(why=str(error)) for token in jobs}
        why, old = f"{self._queue} said nothing of it", self._steady() - asked_at
        return {
            token: Report(listing.entries.get(job_id), job_id in listing.absent, why, old)
            for token, job_id in jobs.items()
        }

    async def problem(self, age: float) -> str:
        """Why nothing should be handed over now; empty if the scheduler answered when it was last asked.

        Args:
            age: how many seconds ago that may be, and a minute at least. It is asked in the background.
        """
        asked_at = max(self._asked_at, self._checked_at)
        oldest = max(age, CHECK_SECONDS) if self._problem is None else FAILED_SECONDS
        if self._steady() - asked_at >= oldest:
            if self._check is None or self._check.done():
                self._check = asyncio.get_running_loop().create_task(self._see())
            if asked_at == float("-inf"):  # nothing is known yet
                await asyncio.wait([self._check], timeout=_FIRST_SECONDS)
                if not self._check.done():
                    return f"{self._queue} has not answered yet"
        return str(self._problem or "")

    @property
    def _problem(self) -> CampaignError | None:
        return self._error if self._asked_at > self._checked_at else self._away

    async def _see(self) -> None:
        error: CampaignError | None = None
        try:
            await self._scheduler.check()
        except CampaignError as found:
            error = found
        except Exception as found:  # an answer that nobody thought of
            error = Transient(f"{self._queue}: its answer cannot be read ({found!r:.200})")
        self._away = error
        self._checked_at = self._steady()

    async def _ask(self) -> None:
        jobs = {job_id: token for token, ids in self._open.items() for job_id in ids}
        listing, said = Listing(), None
        asked_at = self._steady()
        try:
            listing = await self._scheduler.see(jobs, self._marks)
        except CampaignError as error:
            said = error
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # an answer that nobody thought of
            said = Transient(f"{self._queue}: its answer cannot be read ({error!r:.200})")
        self._asked, self._listing, self._error, self._asked_at = frozenset(jobs), listing, said, asked_at
        self._failed_at = self._steady() if said is not None else float("-inf")
