"""A queue in this process: jobs wait until a test lets them run, then they are real processes."""

from collections.abc import Sequence
from pathlib import Path

from contract.engine.lab import REPORT, Lab, campaign

from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

HOST = "lab"


class WaitingQueue(LocalLauncher):
    """Its jobs and what it says of them are open for tests to change; `another` is what a new process would make."""

    name = "waiting"
    unsettled = False

    def __init__(self, slots: int = 100, accepted: dict[str, str] | None = None) -> None:
        super().__init__(slots)
        self.poll_seconds = 0.0
        self.accepted: dict[str, str] = {} if accepted is None else accepted
        """Token -> job id: what the scheduler knows, whoever asks."""
        self.batches: list[list[AttemptSpec]] = []
        self.answers: dict[str, Observation] = {}
        """exp_id -> what is said of it instead of the truth."""
        self.down = False
        self.lost_answers = 0
        """So many submissions are accepted, but nobody hears of it."""
        self._running: dict[str, Handle] = {}

    async def look(self) -> list[HostView]:
        return [HostView(HOST, self.slots, launcher=self.name, queue=True)]

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        self.batches.append(list(specs))
        found: dict[str, Handle | CampaignError] = {}
        for spec in specs:
            assert spec.token not in self.accepted, "handed over twice"
            self.accepted[spec.token] = str(len(self.accepted) + 1)
            found[spec.token] = self._job(spec)
        if self.lost_answers:
            self.lost_answers -= 1
            return {spec.token: Unknown("no answer") for spec in specs}
        return found

    async def submit(self, spec: AttemptSpec) -> Handle:
        raise AssertionError("a queue is handed its jobs together")

    async def find(self, spec: AttemptSpec) -> Handle | None:
        if self.down:
            raise Unknown("does not answer")
        return self._job(spec) if spec.token in self.accepted else None

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        return {spec.token: await self._seen(spec) for spec, _ in handles}

    def watch(self, spec, handle, on_end) -> None:
        if spec.token in self._running:
            super().watch(spec, self._running[spec.token], on_end)

    async def cancel(self, spec, handle, *, grace_seconds: float = 10.0) -> None:
        if spec.token in self._running:
            await super().cancel(spec, self._running[spec.token], grace_seconds=grace_seconds)

    async def let_run(self, *specs: AttemptSpec) -> None:
        """It is their turn."""
        for spec in specs:
            self._running[spec.token] = await super().submit(spec)

    async def _seen(self, spec: AttemptSpec) -> Observation:
        if self.down:
            return Observation("unreachable", detail="does not answer")
        if spec.exp_id in self.answers:
            return self.answers[spec.exp_id]
        if spec.token not in self._running:
            return Observation("pending", detail="waits for resources")
        seen = (await super().observe([(spec, self._running[spec.token])]))[spec.token]
        return Observation(**{**vars(seen), "node": "n1"})

    def _job(self, spec: AttemptSpec) -> Handle:
        return Handle(self.name, HOST, self.accepted[spec.token])


def queued(folder: Path, points: int = 3, script: str = REPORT, **changes) -> Lab:
    """A campaign of a queue; it may have as many jobs as there are points."""
    policy = {"max_parallel": points, **changes.pop("policy", {})}
    return Lab(campaign(folder, script, points=list(range(points)), policy=policy, **changes))


def specs_of(queue: WaitingQueue):
    return [spec for batch in queue.batches for spec in batch]
