"""The questions that are put to Slurm: one squeue for all jobs, at most one sacct for those it does not show."""

import asyncio
import time
from collections.abc import Collection, Iterable

from prefect_campaign.launch.poller import FAILED_SECONDS
from prefect_campaign.launch.slurm.programs import Programs, asked
from prefect_campaign.launch.slurm.refusals import told, without_accounting
from prefect_campaign.launch.slurm.text import SACCT_FIELDS, SQUEUE_FORMAT, read_accounting, read_config, read_queue
from prefect_campaign.launch.slurm.view import View
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.errors import CampaignError, Transient

_NAMES_LENGTH = 30_000
"""Characters of names in one call; with more, all jobs of the user are asked for."""
_ONES = 8_000
"""Ids or names in one sacct."""
_WANTED_SECONDS = 900.0
_SINCE_SLACK = 600
"""Seconds before our own submit time, for clocks that differ."""
_DEFAULT_ARRAY = 1001


class Scheduler:
    """Asks one cluster; answers are shared by all who want to know at the same time.

    Args:
        name: of the cluster, for messages.
        programs: runs squeue and the others.
        clock: seconds since the epoch.
    """

    def __init__(self, name: str, programs: Programs, clock: Clock) -> None:
        self.name = name
        self.problem = ""
        """Why the last question was not answered; empty if it was."""
        self.view: View | None = None
        """The last answer."""
        self.accounting: bool | None = None
        """Whether the cluster keeps accounts; None: not known yet."""
        self._programs = programs
        self._clock = clock
        self._turn = asyncio.Lock()
        self._asked_at = float("-inf")
        """When the last answer was asked for. Ages do not follow the wall clock, which may jump."""
        self._failed: tuple[float, CampaignError] | None = None
        self._array_size: int | None = None
        self._wanted: dict[str, float] = {}

    async def queue(self, names: Collection[str], *, max_age: float = 0.0) -> View:
        """The queue, for the jobs with these names at least.

        Args:
            names: of jobs.
            max_age: how old the answer may be, in seconds; one that was asked for after this call is always new.

        Raises:
            Transient: no whole answer.
            Refused: squeue can never be run with these settings.
        """
        oldest = time.monotonic() - max_age
        async with self._turn:
            if self.view is not None and self._asked_at >= oldest and self.view.covers(names):
                return self.view
            if self._failed is not None and self._failed[0] >= max(oldest, time.monotonic() - FAILED_SECONDS):
                raise self._failed[1]
            began, asked_at = time.monotonic(), self._clock()
            try:
                self.view = await self._ask_queue(self._names(names, began), asked_at)
            except CampaignError as error:
                self.problem = str(error)
                self._failed = time.monotonic(), error  # those who waited meanwhile need not wait again
                raise
            self.problem = ""
            self._failed = None
            self._asked_at = began
            return self.view

    async def accounts(self, *, ids: Iterable[str] = (), names: Iterable[str] = (), since: float) -> View:
        """What the accounts know of jobs by id or name, bounded by our own submit time.

        Raises:
            Transient: no answer; nothing is known.
        """
        wanted = sorted(set(ids))[:_ONES]
        called = sorted(set(names))[:_ONES]
        asked_at = self._clock()
        if self.accounting is False or not (wanted or called):
            return View([], asked_at)
        # Relative, so that neither midnight nor the time zone of another machine matters.
        seconds = max(0, int(asked_at - since)) + _SINCE_SLACK
        argv = ["sacct", "--allocations", "--noheader", "--parsable2", f"--format={','.join(SACCT_FIELDS)}"]
        argv += [f"--user={await self._programs.user()}", f"--starttime=now-{seconds}seconds"]
        argv += [f"--jobs={','.join(wanted)}"] if wanted else [f"--name={','.join(called)}"]
        said = await asked(self._programs, argv)
        if said.code != 0 and without_accounting(said.err + said.out):
            self.accounting = False
            return View([], asked_at)
        if said.code != 0 or "error:" in said.err:
            raise Transient(f"{self.name}: sacct: {told(said.err) or 'it said nothing'}")
        self.accounting = True
        return View(read_accounting(said.out), asked_at)

    async def array_size(self) -> int:
        """How many tasks an array may have (MaxArraySize: one more than the highest index); asked for once.

        Raises:
            Transient: no answer.
        """
        if self._array_size is None:
            said = await asked(self._programs, ["scontrol", "show", "config"])
            size = read_config(said.out).get("MaxArraySize", "")
            if said.code != 0:
                raise Transient(f"{self.name}: scontrol: {told(said.err) or 'it said nothing'}")
            self._array_size = int(size) if size.isdecimal() else _DEFAULT_ARRAY
        return max(1, self._array_size)

    def _names(self, names: Collection[str], now: float) -> frozenset[str]:
        """These and all that were asked for lately, so that one answer serves everybody."""
        self._wanted = {name: at for name, at in self._wanted.items() if now - at < _WANTED_SECONDS}
        self._wanted.update(dict.fromkeys(names, now))
        return frozenset(self._wanted)

    async def _ask_queue(self, names: frozenset[str], asked_at: float) -> View:
        argv = ["squeue", "--noheader", "--all", "--states=all", f"--user={await self._programs.user()}"]
        listed = ",".join(sorted(names))
        limited = bool(names) and len(listed) < _NAMES_LENGTH
        argv += [f"--name={listed}"] if limited else []
        said = await asked(self._programs, [*argv, f"--format={SQUEUE_FORMAT}"])
        # Some versions say what is wrong, print what they have, and still end with 0.
        if said.code != 0 or "error:" in said.err:
            raise Transient(f"{self.name}: squeue: {told(said.err) or told(said.out) or 'it said nothing'}")
        return View(read_queue(said.out), asked_at, names if limited else None)
