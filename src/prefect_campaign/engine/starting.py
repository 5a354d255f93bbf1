"""Starting attempts whose intents are on record, each at most once, and remembering what came of it."""

import logging
from dataclasses import replace

from sqlalchemy import Connection

from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.outcomes import LAUNCH_FAILED, fix_kept, not_started, unlaunched
from prefect_campaign.engine.preflight import Preflight
from prefect_campaign.engine.watching import Live
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.experiments import Outcome, record_outcomes, record_submitted
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Handle
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState

log = logging.getLogger("prefect_campaign")


class Starter:
    """Brings attempts to life for one dispatcher."""

    def __init__(self, hold: Hold, campaign: Campaign, launcher: Launcher, batch: Batch, preflight: Preflight) -> None:
        self._preflight = preflight
        self._hold = hold
        self._campaign = campaign
        self._launcher = launcher
        self._batch = batch
        self._unleased: set[str] = set()
        self._submitted: list[tuple[AttemptSpec, Handle]] = []
        self._unlaunched: list[tuple[AttemptSpec, Outcome]] = []
        self._unsure: dict[str, tuple[AttemptSpec, float]] = {}
        """Token -> the attempt, and when its intent was written."""
        self._verdicts: dict[str, str] = {}
        """Token -> what was done about those of `_unlaunched` whose GPUs were busy."""

    @property
    def submitted(self) -> int:
        """How many are started, but not on record as such yet: after a crash they are found by their token."""
        return len(self._submitted)

    @property
    def unsure(self) -> int:
        """How many may have been started but could not be found yet, or wait for their GPUs to be free."""
        return len(self._unsure) + len(self._preflight)

    @property
    def next_at(self) -> float | None:
        """When a GPU is to be looked at again; seconds since the epoch."""
        return self._preflight.next_at

    async def start(self, spec: AttemptSpec) -> Live | None:
        """Start an attempt now; None if that failed, which is remembered for `write_unlaunched`, or is not known."""
        return await self._settle(spec, look_first=False, since=self._hold.now())

    async def find_or_start(self, spec: AttemptSpec, since: float, *, leased: bool = True) -> Live | None:
        """The same for an attempt whose intent was written earlier: it may have been started since then.

        Args:
            spec: the attempt.
            since: when its intent was written, in seconds since the epoch.
            leased: whether it still has its devices; if not, it may run already, but not start.
        """
        if not leased:
            self._unleased.add(spec.token)
        return await self._settle(spec, look_first=True, since=since)

    async def look_again(self) -> list[Live]:
        """Look for those that may have been started; one that the launcher says is not there starts now."""
        found = [await self._settle(spec, look_first=True, since=at) for spec, at in list(self._unsure.values())]
        return [live for live in found if live is not None]

    async def start_checked(self) -> list[Live]:
        """Start those whose GPUs are free; those that others use wait on, are placed anew or are stopped."""
        started = []
        for verdict in self._preflight.step():
            if verdict.effect == "start":
                live = await self._settle(verdict.spec, look_first=False, since=self._hold.now(), checked=True)
                started += [live] if live else []
                continue
            now = self._hold.now()
            if verdict.effect == "stop":
                outcome = not_started(verdict.spec, verdict.why, ExperimentState.ON_HOLD, now=now)
            else:
                outcome = not_started(verdict.spec, verdict.why, ExperimentState.QUEUED, now=now)
                # No try of the experiment: its retries are for what ran.
                outcome = replace(outcome, diagnosis=Diagnosis(LAUNCH_FAILED, verdict.why, ""))
                outcome.move.values.update(fix_kept(verdict.spec, self._batch.rules(verdict.spec)))
            self._unlaunched.append((verdict.spec, outcome))
            self._verdicts[verdict.spec.token] = verdict.effect
        return started

    def record_submitted(self, connection: Connection, now: float) -> None:
        """Write down, within a transaction, what runs; `forget_submitted` follows once that is durable."""
        record_submitted(connection, self._hold.campaign_id, self._submitted, now=now)
        for spec, _ in self._submitted:
            self._preflight.settle_alert(connection, spec, "start")

    def forget_submitted(self) -> None:
        """They are on record."""
        if self._submitted:
            self._submitted = []
            crash_point("submission_recorded")

    def write_submitted(self) -> None:
        """Write down what runs, if there is any news."""
        if self._submitted:
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
            for spec, _ in self._unlaunched:
                if spec.token in self._verdicts:
                    self._preflight.settle_alert(connection, spec, self._verdicts[spec.token])
        self._verdicts.clear()
        crash_point("launch_given_up")
        written, self._unlaunched = self._unlaunched, []
        for spec, outcome in written:
            self._batch.ended(spec, outcome)
        return written

    async def _settle(self, spec: AttemptSpec, *, look_first: bool, since: float, checked: bool = False) -> Live | None:
        handle: Handle | None = None
        try:
            handle = await self._find(spec) if look_first else None
            if handle is None and spec.token in self._unleased and not spec.gpus:  # else the look at its GPUs tells
                raise Transient("its devices were given to others while nobody drove the campaign")
            if handle is None and not self._batch.closed:
                if spec.gpus and not checked:
                    self._unsure.pop(spec.token, None)
                    self._preflight.begin(spec, since)
                    return None
                handle = await self._submit(spec)
        except Unknown as error:
            if spec.token not in self._unsure:
                log.warning("%s: may have been started; it will be looked for: %s", spec.token, error)
            self._unsure[spec.token] = spec, since
            return None
        except (Transient, Refused) as error:
            if isinstance(error, Refused) and await self._preflight.trouble(spec.host):
                error = Transient(str(error))  # the host's trouble, not the spec's: elsewhere or later it may run
            outcome = unlaunched(self._campaign, spec, error, self._batch.rules(spec), now=self._hold.now())
            self._unlaunched.append((spec, outcome))
        else:
            if handle is None:
                why = f"never started: {self._batch.closed}"
                outcome = not_started(spec, why, ExperimentState.CANCELLED, now=self._hold.now())
                self._unlaunched.append((spec, outcome))
        self._unsure.pop(spec.token, None)
        if handle is None:
            return None
        self._submitted.append((spec, handle))
        return Live(spec, handle, since)

    async def _submit(self, spec: AttemptSpec) -> Handle:
        """Submit an attempt; where that may have worked, look for its job.

        Raises:
            Unknown: it may have been started, but is not to be found yet: look again before doing anything else.
        """
        try:
            return await self._launcher.submit(spec)
        except Unknown:
            found = await self._find(spec)
            if found is None:
                raise
            return found

    async def _find(self, spec: AttemptSpec) -> Handle | None:
        """The job of an attempt; None only if the launcher can say that there is none.

        Raises:
            Unknown: it cannot say.
        """
        try:
            return await self._launcher.find(spec)
        except (Transient, Refused, OSError) as error:
            raise Unknown(f"{spec.token}: cannot be looked up now ({error})") from error
