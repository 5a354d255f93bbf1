"""One batch from ready to ended: place, launch, observe, heal, and record every step before and after it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from prefect_campaign.decide.compare import is_baseline
from prefect_campaign.decide.early_stop import groups_to_stop
from prefect_campaign.engine.attempts import first_spec, run_dir_of, spec_from
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.outcomes import Ended, RetryRules, conclude
from prefect_campaign.engine.process import git_state, hostname, identity_alive, own_identity
from prefect_campaign.engine.telemetry import Telemetry
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import batches, gates
from prefect_campaign.ledger import campaigns as campaign_rows
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import (
    Intent,
    Move,
    Outcome,
    Stale,
    move,
    record_intents,
    record_outcomes,
    record_submitted,
)
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.observations import Reading, add_alert, add_metrics
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Fenced, Refused, Transient, Unknown
from prefect_campaign.model.ids import token
from prefect_campaign.model.records import AttemptSpec, Diagnosis, ExperimentView, Handle
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState, ExperimentState
from prefect_campaign.placement.slots import Demand, devices_of, place

LEASE_SECONDS = 30.0
LOOK_SECONDS = 2.0
"""How often live attempts' metrics are read; exits are seen at once, whatever this is."""
SUBMITTED_SECONDS = 0.02
"""A job that is over by then is recorded as submitted and as ended in one transaction."""


@dataclass(frozen=True)
class AttemptEnd:
    """What a waiting task run is told: the attempt is over, and what comes next."""

    exp_id: str
    attempt: int
    state: ExperimentState
    """`queued`: another attempt follows."""
    reason: str
    objective_value: float | None = None
    has_course: bool = False
    """Whether it may have reported a metric more than once, so that there is a course to judge."""


@dataclass
class Live:
    """A launched attempt."""

    spec: AttemptSpec
    handle: Handle
    launched_at: float
    stopped: Diagnosis | None = None
    telemetry: Telemetry = field(init=False)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.spec)


class Dispatcher:
    """Drives the experiments of one stage. One per campaign at a time: it holds the ledger's lease.

    Use it through `open_dispatcher`, which acquires and releases the lease.
    """

    def __init__(
        self, ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, stage: str, launcher: Launcher
    ) -> None:
        self.ledger = ledger
        self.home = home
        self.campaign = campaign
        self.row = row
        self.stage = stage
        self.launcher = launcher
        self.fence = -1
        self.on_launch: Callable[[str, int], None] = lambda exp_id, attempt: None
        """Called when an attempt was launched or adopted."""
        self.on_end: Callable[[AttemptEnd], None] = lambda end: None
        """Called when an attempt's end is on record."""
        self.on_news: Callable[[AttemptSpec], None] = lambda spec: None
        """Called when new metric rows of a live attempt are on record."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._batch = Batch(ledger, row.id, stage)
        with ledger.read() as connection:
            approval = gates.question(connection, row.id, row.plan_hash)
        self._approved_hours = approval.budget_hours if approval else None
        self._live: dict[str, Live] = {}
        self._submitted: list[tuple[AttemptSpec, Handle]] = []
        """Started, but not on record as such yet: after a crash they are found by their token."""
        self._ended: set[str] = set()
        self._wake = asyncio.Event()
        self._inbox: dict[str, asyncio.Queue[AttemptEnd]] = defaultdict(asyncio.Queue)
        self._commit, self.dirty = git_state(campaign.workdir)
        self._devices = devices_of(campaign.policy.max_parallel or launcher.slots)
        self._next_look = 0.0

    # -- for the flow that watches ------------------------------------------------------------------------------

    async def attempt_end(self, exp_id: str) -> AttemptEnd:
        """The end of the experiment's current attempt; each end is handed out once, in order."""
        return await self._inbox[exp_id].get()

    async def run(self) -> None:
        """Work until nothing of the batch can go on: all final, or held for a decision.

        Raises:
            Fenced: another dispatcher took over.
        """
        await self.adopt()
        while True:
            await self._round()
            if not self._live and not self._batch.waiting:
                crash_point("batch_ended")
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._until_next())
            self._wake.clear()
            if not self._ended:
                self._write_submitted()

    async def tick(self) -> None:
        """One round: what ended, what can start, what the live ones report. Doing it twice changes nothing."""
        await self._round()
        self._write_submitted()

    async def _round(self) -> None:
        concluded = await self._conclude() if self._ended else []
        for live, outcome in concluded:
            self._batch.ended(live.spec, outcome)
        off = self._call_off(early_stop=bool(concluded))
        intents = self._record(concluded, off)
        for live, outcome in concluded:
            self._close(live, outcome)
        for one in (m for moves in off.values() for m in moves):
            self._tell(AttemptEnd(one.exp_id, self._batch.views[one.exp_id].attempt, one.new, one.why))
        await self._launch(intents)
        now = self.ledger.clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look(now)

    async def adopt(self) -> None:
        """Take over what an earlier dispatcher left: attempts that run, have ended, or were about to start."""
        self._next_look = self.ledger.clock() + LOOK_SECONDS
        self._batch.load()
        for attempt in self._batch.open_attempts():
            spec = spec_from(attempt["spec"])
            handle = Handle(**attempt["handle"]) if attempt["handle"] else await self.launcher.find(spec)
            if handle is None:
                # The intent was written but nothing came of it: start the very same token now.
                handle = await self._submit(spec)
            if handle is None:
                continue
            if attempt["handle"] is None:
                self._submitted.append((spec, handle))
            self._batch.launching(spec)
            self._follow(spec, handle, attempt["started_at"] or attempt["intent_at"], attempt["cursors"])
        self._write_submitted()
        # Not left to the launcher's call back: a single tick must see what is over already.
        seen = await self.launcher.observe([(v.spec, v.handle) for v in self._live.values()])
        self._ended.update(t for t, one in seen.items() if one.status in ("exited", "gone"))

    async def cancel_all(self, why: str) -> None:
        """Stop every live attempt of this batch, and nothing else."""
        for live in self._live.values():
            live.stopped = Diagnosis("cancelled", why, "asked by a person")
        await asyncio.gather(*(self.launcher.cancel(v.spec, v.handle) for v in self._live.values()))

    # -- the one transaction of a round -------------------------------------------------------------------------

    def _record(self, concluded: Sequence[tuple[Live, Outcome]], off: Mapping[str, Sequence[Move]]) -> list[Intent]:
        """Write down what was submitted, what ended, what is called off and what starts next, all in one.

        Returns:
            The attempts to launch: they and their devices are on record.
        """
        now = self.ledger.clock()
        free = len(self._devices) - len(self._live) + len(concluded)
        due = self._batch.due(now, most=max(free, 0))
        if not (concluded or off or due):
            return []
        submitted, intents, stale = self._submitted, [], False
        with self.ledger.fenced(self.row.id, self.fence) as connection:
            record_submitted(connection, self.row.id, submitted, now=now)
            add_metrics(connection, self.row.id, _readings(live for live, _ in concluded))
            record_outcomes(connection, self.row.id, [outcome for _, outcome in concluded], now=now)
            for who, moves in off.items():
                move(connection, self.row.id, moves, now=now, who=who)
            if due:
                try:
                    with connection.begin_nested():
                        intents = self._place(connection, due, now)
                except Stale:
                    intents, stale = [], True
        self._submitted = []
        if submitted:
            crash_point("submission_recorded")
        if concluded:
            crash_point("outcome_recorded")
        if intents:
            crash_point("intent_recorded")
        if stale:
            self._batch.load()
        return intents

    def _place(self, connection: Connection, due: Sequence[Demand], now: float) -> list[Intent]:
        """Devices for what is due; read and taken in one transaction, so that nobody else's lease can come between.

        Raises:
            Stale: an experiment or a device was taken meanwhile.
        """
        leased = batches.leased_devices(connection, hostname())
        placement = place(due, self._devices, leased, now)
        intents = [self._intent(self._batch.waiting[a.exp_id], a.device) for a in placement.assignments]
        record_intents(connection, self.row.id, intents, now=now)
        if self.campaign.sweep.optuna_search:
            batches.record_params(connection, self.row.id, [i.spec for i in intents])
        return intents

    def _call_off(self, *, early_stop: bool) -> dict[str, list[Move]]:
        """Who decides -> what of the waiting is not worth running any more, or not paid for."""
        off = {}
        if early_stop:
            off["early stop"] = self._hopeless()
        off["budget"] = self._unpaid()
        return {who: moves for who, moves in off.items() if moves}

    def _hopeless(self) -> list[Move]:
        if self.stage != self.campaign.full.name or not self._batch.waiting:
            return []
        if not any(is_baseline(name) for name in self.campaign.groups):
            return []
        stopped = groups_to_stop(self.campaign, self._batch.history())
        return [
            self._batch.called_off(e, ExperimentState.CANCELLED, why)
            for e, why in stopped.items()
            if e in self._batch.waiting
        ]

    def _unpaid(self) -> list[Move]:
        limits = (self.campaign.policy.budget.hours, self._approved_hours)
        hours = min((h for h in limits if h is not None), default=None)
        if hours is None or self._batch.hours < hours:
            return []
        why = f"the budget of {hours:g} h is used up"
        return [self._batch.called_off(e, ExperimentState.ON_HOLD, why) for e in list(self._batch.waiting)]

    # -- launching ----------------------------------------------------------------------------------------------

    async def _launch(self, intents: Sequence[Intent]) -> None:
        for intent in intents:
            self._batch.launching(intent.spec)
        for intent in intents:
            handle = await self._submit(intent.spec)
            if handle is not None:
                self._submitted.append((intent.spec, handle))
                self._follow(intent.spec, handle, self.ledger.clock(), {})

    def _intent(self, view: ExperimentView, device: str) -> Intent:
        attempt = view.attempt + 1
        healed = self._batch.healed.get(view.exp_id)
        if healed and healed["attempt"] == attempt:
            spec = spec_from(healed)
        else:
            spec = first_spec(self.campaign, self.row.round, self.home, view, attempt, self._batch.history())
        state = ExperimentState(view.state)
        return Intent(spec, state, self.launcher.name, hostname(), device, self._commit)

    async def _submit(self, spec: AttemptSpec) -> Handle | None:
        """Launch an attempt whose intent is on record. None: it could not be, and that is on record too."""
        try:
            return await self.launcher.submit(spec)
        except Unknown:
            return await self.launcher.find(spec)
        except Transient as error:
            self._write_unlaunched(spec, ExperimentState.QUEUED, "launch_failed", str(error))
        except Refused as error:
            self._write_unlaunched(spec, ExperimentState.FAILED, "refused", str(error))
        return None

    def _follow(self, spec: AttemptSpec, handle: Handle, launched_at: float, cursors: dict[str, Any]) -> None:
        live = Live(spec, handle, launched_at)
        if cursors:
            live.telemetry.resume(cursors, self._batch.metrics.get(spec.exp_id, {}))
        self._live[spec.token] = live
        self.on_launch(spec.exp_id, spec.attempt)
        self.launcher.watch(spec, handle, self._saw_end)

    def _saw_end(self, token_: str) -> None:
        self._ended.add(token_)
        self._wake.set()

    # -- ends ---------------------------------------------------------------------------------------------------

    async def _conclude(self) -> list[tuple[Live, Outcome]]:
        """How the attempts that are over ended, and what follows; nothing is changed yet."""
        lives = [self._live[t] for t in self._ended if t in self._live]
        self._ended.clear()
        if not lives:
            return []
        seen = await self.launcher.observe([(v.spec, v.handle) for v in lives])
        crash_point("exit_seen")
        now = self.ledger.clock()
        concluded: list[tuple[Live, Outcome]] = []
        for live in lives:
            observation = seen[live.spec.token]
            if observation.status in ("running", "unreachable"):
                self.launcher.watch(live.spec, live.handle, self._saw_end)
                continue
            live.telemetry.read_rest()
            failed = observation.status != "exited" or observation.exit_code != 0
            ended = Ended(
                spec=live.spec,
                state=ExperimentState.RUNNING,
                seen=observation,
                metrics=live.telemetry.final,
                non_finite=live.telemetry.non_finite(self.campaign.objective.metric),
                stdout_tail=live.telemetry.tail("stdout.log") if failed else "",
                stderr_tail=live.telemetry.tail("stderr.log") if failed else "",
                stopped=live.stopped,
            )
            history = self._batch.fixes.get(live.spec.exp_id, [])
            concluded.append((live, conclude(self.campaign, ended, history, self._rules(live.spec), now=now)))
        return concluded

    def _close(self, live: Live, outcome: Outcome) -> None:
        del self._live[live.spec.token]
        if outcome.move.new == ExperimentState.QUEUED:
            crash_point("retry_planned")
        self._tell(
            AttemptEnd(
                live.spec.exp_id,
                live.spec.attempt,
                outcome.move.new,
                outcome.move.why,
                outcome.move.values.get("objective_value"),
                live.telemetry.has_course,
            )
        )

    def _tell(self, end: AttemptEnd) -> None:
        self._inbox[end.exp_id].put_nowait(end)
        self.on_end(end)

    def _rules(self, spec: AttemptSpec) -> RetryRules:
        policy = self.campaign.policy
        retries = policy.full_retries if self.stage == self.campaign.full.name else policy.pilot_retries
        following = spec.attempt + 1
        return RetryRules(
            retries=retries + self._batch.attempts_before_reopening.get(spec.exp_id, 0),
            first_attempt_at=self._batch.first_intent.get(spec.exp_id, self.ledger.clock()),
            next_token=token(self.campaign.name, self.row.round, spec.exp_id, following),
            next_run_dir=str(run_dir_of(self.home, self.campaign.name, self.row.round, spec.exp_id, following)),
        )

    # -- watching -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Read what live attempts report; write only if there is news. Stop what is beyond help."""
        news = [live for live in self._live.values() if live.telemetry.read()]
        with self.ledger.fenced(self.row.id, self.fence) as connection:
            campaign_rows.renew(connection, self.row.id, now=now, ttl=LEASE_SECONDS)
            add_metrics(connection, self.row.id, _readings(news))
        for live in list(self._live.values()):
            if live.stopped is None:
                live.stopped = self._reason_to_stop(live, now)
                if live.stopped is not None:
                    self._record_alert(live, live.stopped, now)
                    # Not awaited: ending a stubborn job takes seconds, and the others must not wait for it.
                    stopping = asyncio.create_task(self.launcher.cancel(live.spec, live.handle))
                    self._stopping.add(stopping)
                    stopping.add_done_callback(self._stopping.discard)
        for live in news:
            self.on_news(live.spec)

    def _reason_to_stop(self, live: Live, now: float) -> Diagnosis | None:
        policy = self.campaign.policy
        broken = live.telemetry.non_finite(self.campaign.objective.metric)
        if broken and policy.on_non_finite == "stop":
            return Diagnosis("nan_loss", f"{broken} is not finite", f"last value of {broken} in {live.spec.run_dir}")
        limit = live.spec.time_minutes
        if limit is not None and now - live.launched_at > limit * 60:
            return Diagnosis("timeout", f"over resources.time_minutes ({limit:g})", f"launched {live.launched_at:.0f}")
        quiet = live.telemetry.quiet_since(live.launched_at)
        if now - quiet > policy.hang_minutes * 60:
            return Diagnosis("hang", f"no log and no metric for {policy.hang_minutes:g} min", live.spec.run_dir)
        return None

    def _record_alert(self, live: Live, why: Diagnosis, now: float) -> None:
        with self.ledger.fenced(self.row.id, self.fence) as connection:
            add_alert(
                connection,
                self.row.id,
                live.spec.exp_id,
                live.spec.attempt,
                severity="critical",
                syndrome="nan_inf_loss" if why.signature == "nan_loss" else why.signature,
                message=f"{live.spec.exp_id} attempt {live.spec.attempt}: {why.cause}; stopped",
                choices=[{"label": "Stopped by policy", "effect": "stop"}],
                effect="stop",
                created_at=now,
            )

    # -- small things -------------------------------------------------------------------------------------------

    def _write_submitted(self) -> None:
        if not self._submitted:
            return
        with self.ledger.fenced(self.row.id, self.fence) as connection:
            record_submitted(connection, self.row.id, self._submitted, now=self.ledger.clock())
        self._submitted = []
        crash_point("submission_recorded")

    def _write_unlaunched(self, spec: AttemptSpec, new: ExperimentState, signature: str, why: str) -> None:
        now = self.ledger.clock()
        if new == ExperimentState.QUEUED and spec.attempt > self._rules(spec).retries:
            new = ExperimentState.FAILED
        values: dict[str, Any] = {"signature": signature}
        if new == ExperimentState.QUEUED:
            values["retry_at"] = now + 2 ** min(spec.attempt, 8)
        outcome = Outcome(
            token=spec.token,
            attempt_state=AttemptState.FAILED,
            move=Move(spec.exp_id, ExperimentState.LAUNCHING, new, why, values),
            ended_at=now,
            diagnosis=Diagnosis(signature, why, ""),
        )
        with self.ledger.fenced(self.row.id, self.fence) as connection:
            record_outcomes(connection, self.row.id, [outcome], now=now)
        self._batch.ended(spec, outcome)
        self._tell(AttemptEnd(spec.exp_id, spec.attempt, new, why))

    def _until_next(self) -> float:
        now = self.ledger.clock()
        due = [self._next_look] if self._live else []
        due += [now + SUBMITTED_SECONDS] if self._submitted else []
        due += [at for e, at in self._batch.retry_at.items() if e in self._batch.waiting and at > now]
        if self._batch.waiting and not self._live:
            due.append(now + 1.0)  # another campaign's leases: look again soon
        return max(0.0, min(due, default=now + LOOK_SECONDS) - now)


def _readings(lives: Iterable[Live]) -> list[Reading]:
    return [reading for live in lives if (reading := live.telemetry.take()) is not None]


@asynccontextmanager
async def open_dispatcher(
    ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, stage: str, launcher: Launcher
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that holds the campaign's lease for as long as the block lasts.

    Raises:
        Transient: another dispatcher is at work on this campaign.
    """
    with ledger.write() as connection:
        fence = campaign_rows.acquire(
            connection, row.id, owner=own_identity(), now=ledger.clock(), ttl=LEASE_SECONDS, alive=identity_alive
        )
    dispatcher = Dispatcher(ledger, home, campaign, row, stage, launcher)
    dispatcher.fence = fence
    try:
        yield dispatcher
    finally:
        launcher.close()
        with suppress(Fenced, Transient), ledger.fenced(row.id, fence) as connection:
            campaign_rows.release(connection, row.id)
