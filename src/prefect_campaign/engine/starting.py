"""Starting attempts whose intents are on record, each at most once, and remembering what came of it."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.carrying import Carrier
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.outcomes import LAUNCH_FAILED, QUEUE_FULL, fix_kept, not_started, unlaunched
from prefect_campaign.engine.preflight import Preflight
from prefect_campaign.engine.watching import Live
from prefect_campaign.launch.fleet import queues_of
from prefect_campaign.launch.many import submit_many
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.experiments import Outcome, record_outcomes, record_submitted
from prefect_campaign.ledger.leases import held
from prefect_campaign.ledger.queued import record_queued
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import CampaignError, NoRoom, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Handle
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState

log = logging.getLogger("prefect_campaign")


@dataclass(frozen=True)
class Try:
    """An attempt that is to be started, or may have been."""

    spec: AttemptSpec
    since: float
    """When its intent was written, in seconds since the epoch."""
    leased: bool = True
    """Whether it has its devices; if not, it may run already, but not start."""
    checked: bool = False
    """Whether its GPUs have just been seen to be free."""


class Starter:
    """Brings attempts to life for one dispatcher.

    Args:
        hold: the campaign.
        campaign: its spec.
        launcher: starts them.
        batch: what they are attempts of.
        hosts: its machines, whose GPUs are looked at first.
        elsewhere: whether an attempt could be placed on other GPUs now.
        woken: called when there is something to start.
    """

    def __init__(
        self,
        hold: Hold,
        campaign: Campaign,
        launcher: Launcher,
        batch: Batch,
        hosts: Hosts,
        elsewhere: Callable[[AttemptSpec], bool],
        woken: Callable[[], None],
    ) -> None:
        self._on_full = hosts.full
        self._preflight = Preflight(hold, hosts, elsewhere, woken)
        self._carrier = Carrier(hold, launcher, woken)
        self._hold = hold
        self._campaign = campaign
        self._launcher = launcher
        self._batch = batch
        self._queues = queues_of(launcher)
        self._submitted: list[tuple[AttemptSpec, Handle]] = []
        self._queued: list[tuple[AttemptSpec, Handle]] = []
        self._unlaunched: list[tuple[AttemptSpec, Outcome]] = []
        self._unsure: dict[str, Try] = {}
        """By token."""
        self._verdicts: dict[str, str] = {}
        """Token -> what was done about those of `_unlaunched` whose GPUs were busy."""

    @property
    def submitted(self) -> int:
        """How many are started, but not on record as such yet: after a crash they are found by their token."""
        return len(self._submitted) + len(self._queued)

    @property
    def unsure(self) -> int:
        """How many may have been started but could not be found yet, or wait for checkpoints or GPUs."""
        return len(self._unsure) + len(self._preflight) + len(self._carrier)

    @property
    def next_at(self) -> float | None:
        """When a GPU is to be looked at again; seconds since the epoch."""
        return self._preflight.next_at

    async def start(self, specs: Sequence[AttemptSpec]) -> list[Live]:
        """Start attempts now.

        Returns:
            Those that are started; what could not be is remembered for `write_unlaunched`, what is not known is
            looked for again.
        """
        now = self._hold.now()
        return await self._settle([Try(spec, now) for spec in specs], look_first=False)

    async def find_or_start(self, tries: Sequence[Try]) -> list[Live]:
        """The same for attempts whose intents were written earlier: they may have been started since then."""
        return await self._settle(tries, look_first=True)

    async def look_again(self) -> list[Live]:
        """Look for those that may have been started; one that the launcher says is not there starts now."""
        return await self._settle(list(self._unsure.values()), look_first=True)

    async def start_checked(self) -> list[Live]:
        """Start those whose GPUs are free; those that others use wait on, are placed anew or are stopped.

        Those that have their checkpoints now have their GPUs looked at next, if they have any.
        """
        if self._batch.closed:
            self._carrier.cut()
        now = self._hold.now()
        free = [Try(spec, now) for spec in self._carrier.take()]
        for verdict in self._preflight.step():
            if verdict.effect == "start":
                free.append(Try(verdict.spec, now, checked=True))
                continue
            if verdict.effect == "stop":
                outcome = not_started(verdict.spec, verdict.why, ExperimentState.ON_HOLD, now=now)
            else:
                outcome = not_started(verdict.spec, verdict.why, ExperimentState.QUEUED, now=now)
                # No try of the experiment: its retries are for what ran.
                outcome = replace(outcome, diagnosis=Diagnosis(LAUNCH_FAILED, verdict.why, ""))
                outcome.move.values.update(fix_kept(verdict.spec, self._batch.rules(verdict.spec)))
            self._unlaunched.append((verdict.spec, outcome))
            self._verdicts[verdict.spec.token] = verdict.effect
        return await self._settle(free, look_first=False)

    async def settle(self) -> list[Live]:
        """Start all that wait for checkpoints, and see once more after those that wait for their GPUs."""
        await self._carrier.settle()
        lives = await self.start_checked()
        await self._preflight.settle()
        return lives + await self.start_checked()

    async def close(self) -> None:
        """Stop looking and copying; what was not started yet is for the next dispatcher."""
        await self._carrier.close()
        await self._preflight.close()

    def record_submitted(self, connection: Connection, now: float) -> None:
        """Write down, within a transaction, what runs; `forget_submitted` follows once that is durable."""
        record_submitted(connection, self._hold.campaign_id, self._submitted, now=now)
        record_queued(connection, self._hold.campaign_id, self._queued, now=now)
        for spec, _ in self._submitted:
            self._preflight.settle_alert(connection, spec, "start")

    def forget_submitted(self) -> None:
        """They are on record."""
        if self.submitted:
            self._submitted, self._queued = [], []
            crash_point("submission_recorded")

    def write_submitted(self) -> None:
        """Write down what runs, if there is any news."""
        if self.submitted:
            with self._hold.write() as connection:
                self.record_submitted(connection, self._hold.now())
            self.forget_submitted()

    def write_unlaunched(self) -> list[tuple[AttemptSpec, Outcome]]:
        """Write down what could not be started and free its devices; returns those attempts."""
        if not self._unlaunched:
            return []
        with self._hold.write() as connection:
            outcomes = [outcome for _, outcome in self._unlaunched]
            record_outcomes(connection, self._hold.campaign_id, outcomes, now=self._hold.now())
            full = {spec.host for spec, outcome in self._unlaunched if _is_full(outcome)}
            jobs = Counter(lease.host for lease in held(connection, full)) if full else Counter()
            for spec, _ in self._unlaunched:
                if spec.token in self._verdicts:
                    self._preflight.settle_alert(connection, spec, self._verdicts[spec.token])
        self._verdicts.clear()
        crash_point("launch_given_up")
        written, self._unlaunched = self._unlaunched, []
        for spec, outcome in written:
            self._batch.ended(spec, outcome)
        for host in full:
            self._on_full(host, jobs[host])
        return written

    async def _settle(self, tries: Sequence[Try], *, look_first: bool) -> list[Live]:
        seen: list[tuple[Try, Handle | CampaignError]] = []
        due: list[Try] = []
        for one in tries:
            found = await self._find(one.spec) if look_first else None
            if found is not None:
                seen.append((one, found))
            elif self._may_start(one):
                due.append(one)
        handed = await self._submit([one.spec for one in due])
        seen += [(one, handed[one.spec.token]) for one in due]
        lives = [await self._concluded(one, result) for one, result in seen]
        return [live for live in lives if live is not None]

    def _may_start(self, one: Try) -> bool:
        """Whether it is to be submitted now; if not, what else becomes of it is arranged."""
        spec = one.spec
        if not one.leased and not spec.gpus:  # else the look at its GPUs tells
            why = Transient("its devices were given to others while nobody drove the campaign")
            self._give_up(spec, unlaunched(self._campaign, spec, why, self._batch.rules(spec), now=self._hold.now()))
        elif self._batch.closed:
            why_not = f"never started: {self._batch.closed}"
            self._give_up(spec, not_started(spec, why_not, ExperimentState.CANCELLED, now=self._hold.now()))
        elif self._carrier.begin(spec):
            self._unsure.pop(spec.token, None)
        elif spec.gpus and not one.checked:
            self._unsure.pop(spec.token, None)
            self._preflight.begin(spec, one.since)
        else:
            return True
        return False

    async def _concluded(self, one: Try, result: Handle | CampaignError) -> Live | None:
        """What follows from a submission, or from looking for one."""
        spec = one.spec
        if isinstance(result, Unknown):
            if spec.token not in self._unsure:
                log.warning("%s: may have been started; it will be looked for: %s", spec.token, result)
            self._unsure[spec.token] = replace(one, checked=False)
            return None
        if isinstance(result, CampaignError):
            # What is the host's trouble, and not the spec's, may be over later, or elsewhere.
            final = isinstance(result, Refused) and not await self._preflight.trouble(spec.host)
            error = result if final or isinstance(result, NoRoom) else Transient(str(result))
            rules = self._batch.rules(spec)
            self._give_up(spec, unlaunched(self._campaign, spec, error, rules, now=self._hold.now()))
            return None
        self._unsure.pop(spec.token, None)
        queued = spec.host in self._queues
        (self._queued if queued else self._submitted).append((spec, result))
        return Live(spec, result, one.since, started=not queued)

    def _give_up(self, spec: AttemptSpec, outcome: Outcome) -> None:
        self._unsure.pop(spec.token, None)
        self._unlaunched.append((spec, outcome))

    async def _submit(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Submit attempts; where that may have worked, look for the job."""
        handed = await submit_many(self._launcher, specs)
        for spec in specs:
            if isinstance(handed[spec.token], Unknown):
                handed[spec.token] = await self._find(spec) or handed[spec.token]
        return handed

    async def _find(self, spec: AttemptSpec) -> Handle | CampaignError | None:
        """The job of an attempt, or why nobody can say; None only if the launcher can say that there is none."""
        try:
            return await self._launcher.find(spec)
        except (CampaignError, OSError) as error:
            return Unknown(f"{spec.token}: cannot be looked up now ({error})")


def _is_full(outcome: Outcome) -> bool:
    return outcome.diagnosis is not None and outcome.diagnosis.signature == QUEUE_FULL
