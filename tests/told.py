"""A scheduler that says what the test wants, for the launcher of queues; a clock that moves when told."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect_campaign.launch.queue.jobs import Entry, Listing
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here
from prefect_campaign.model.records import AttemptSpec, Handle


class Told:
    """A scheduler that gives one answer after the other, the last one for ever."""

    kind = "told"
    marks = True

    def __init__(self, *answers: Entry | None) -> None:
        self.answers = list(answers)
        self.looks = 0
        self.cancelled: list[str] = []

    def files(self, there: AttemptSpec) -> dict[str, str]:
        return {}

    async def submit(self, there: AttemptSpec) -> str:
        return f"{there.exp_id}.told"

    def same(self, one: str, other: str) -> bool:
        return one == other

    async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
        self.looks += 1
        entry = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if entry is None:
            return Listing({}, frozenset(jobs))
        return Listing(dict.fromkeys(jobs, entry))

    async def find(self, token: str, run_dir: str) -> Sequence[Entry]:
        return []

    async def cancel(self, jobs: Mapping[str, str]) -> None:
        self.cancelled += jobs
        self.answers = [Entry("7", "ended", "CANCELLED")]

    async def log(self, job_id: str, token: str, run_dir: str) -> str:
        return ""

    async def check(self) -> None:
        return


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def launcher_of(scheduler: Told, **changes) -> QueueLauncher:
    return QueueLauncher("lab", scheduler, Here("lab"), max_jobs=9, poll_seconds=0.0, **changes)


def claimed(spec: AttemptSpec) -> Path:
    run_dir = Path(spec.run_dir)
    (run_dir / "claim").mkdir(parents=True)
    (run_dir / "claim" / "pid").write_text("1\n")
    return run_dir


HANDLE = Handle("told", "lab", "7")
RUNNING = Entry("7", "running")
