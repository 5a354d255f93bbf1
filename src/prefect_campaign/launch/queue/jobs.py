"""What a launcher of queues needs of one kind of scheduler, and how jobs look in its answers."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.text import printable


@dataclass(frozen=True)
class Said:
    """What a program answered."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """What it complains of, on one line: the last line of stderr, else of stdout."""
        for text in (self.err, self.out):
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                return printable(lines[-1])[:300]
        return f"no reason was given (exit code {self.code})"


Run = Callable[[Sequence[str], float], Awaitable[Said]]
"""Runs a program where the scheduler's commands are: argv, seconds.

Raises:
    Transient: it did not run.
    Refused: it did not run, and will not, for example since it is not installed.
    Unknown: it may have run, and nobody knows what it said.
"""


@dataclass(frozen=True)
class Entry:
    """One job as its scheduler lists it."""

    job_id: str
    status: Literal["pending", "running", "ended", "unclear"]
    """`unclear`: listed, in a state that says nothing to us; it is in `detail`."""
    state: str | None = None
    """How it ended, in the words that the catalog of failures knows, such as ``TIMEOUT``."""
    detail: str = ""
    stuck: bool = False
    """Whether it waits for somebody to do something, and not for its turn."""
    node: str = ""
    oom_killed: bool = False
    suspended: bool = False
    """Whether it is `running`, but stopped for now, so that it can write nothing."""


@dataclass(frozen=True)
class Listing:
    """What a scheduler says of the jobs that it was asked about; of those in neither it says nothing."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    """By the id that was asked for."""
    absent: frozenset[str] = frozenset()
    """Ids that are no job of ours to it, now: never known, forgotten, or given to somebody else's job."""


class Scheduler(Protocol):
    """One kind of scheduler: its commands, and how their answers are read."""

    kind: str
    """The launcher's name in handles."""
    marks: bool
    """Whether what `find` finds is surely of this campaign home, so that what is too much may be cancelled. If not, a
    job is taken only if the run dir shows that one of this home has begun."""

    def files(self, there: AttemptSpec) -> dict[str, str]:
        """What is put into the run dir: `job.sh`, and what is handed to the scheduler besides; name -> text.

        Args:
            there: the attempt as it is run on the cluster.

        Raises:
            Refused: it can never be run there.
        """
        ...

    async def submit(self, there: AttemptSpec) -> str:
        """Hand the attempt over once, its files being in place; the job's id.

        Raises:
            Transient: the scheduler has not taken it, and may later.
            Refused: the scheduler has not taken it, and never will.
            Unknown: it may have been taken.
        """
        ...

    def same(self, one: str, other: str) -> bool:
        """Whether two ids mean one job."""
        ...

    async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
        """See all these jobs (id -> token), in one call however many they are.

        Args:
            jobs: id -> token.
            marks: token -> `job_mark`, where that is known: a job that shows another one is none of ours.

        Raises:
            CampaignError: no answer that can be believed; nothing is known of any job.
        """
        ...

    async def find(self, token: str, run_dir: str) -> Sequence[Entry]:
        """All jobs of this attempt, ended ones too as far as the scheduler remembers; none if it has none.

        Args:
            token: which all of them carry.
            run_dir: theirs there. Another campaign home may have an attempt with the same token.

        Raises:
            CampaignError: nobody can say.
        """
        ...

    async def cancel(self, jobs: Mapping[str, str]) -> None:
        """Ask for the end of these jobs (id -> token) and no others, which is no proof of it.

        One that is over already is fine.

        Raises:
            CampaignError: it may not have been asked for.
        """
        ...

    async def log(self, job_id: str, token: str, run_dir: str) -> str:
        """What the scheduler itself has written down about a job, where it must be asked for that; empty if not.

        Raises:
            CampaignError: it does not say.
        """
        ...

    async def check(self) -> None:
        """See that the scheduler answers.

        Raises:
            CampaignError: it does not.
        """
        ...


def first_number(job_id: str) -> tuple[int, str]:
    """To sort ids by age: ``9.pbs`` before ``10.pbs``."""
    found = re.search(r"\d+", job_id)
    return (int(found[0]) if found else 0, job_id)


def job_mark(run_dir: str) -> str:
    """What tells an attempt from one of the same name in another campaign home: its run dir, short."""
    return hashlib.sha256(run_dir.encode("utf-8", "surrogateescape")).hexdigest()[:16]
