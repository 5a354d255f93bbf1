"""One batch from ready to ended: place, launch, observe, heal, and record every step before and after it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from prefect_campaign.engine.attempts import spec_from
from prefect_campaign.engine.away import Away
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.ends import AttemptEnd, Ends
from prefect_campaign.engine.environment import Environment
from prefect_campaign.engine.hold import Hold, holding, keep
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.outcomes import conclude
from prefect_campaign.engine.planning import Planner
from prefect_campaign.engine.probing import Prober
from prefect_campaign.engine.reclaim import Reclaim
from prefect_campaign.engine.starting import Starter, Try
from prefect_campaign.engine.vram import Vram
from prefect_campaign.engine.watching import Live, Watch
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.experiments import Intent, Move, Outcome, move, record_outcomes
from prefect_campaign.ledger.leases import Stale, lock
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Handle
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState, ExperimentState

LOOK_SECONDS = 2.0
"""How often live attempts' metrics are read; exits are seen at once, whatever this is."""
SUBMITTED_SECONDS = 0.02
"""A job that is over by then is recorded as submitted and as ended in one transaction."""


class Dispatcher:
    """Drives the experiments of one stage. One per campaign at a time: it holds the ledger's lease.

    Attempts of other stages that are under way are followed to their end too, for they hold devices. Use it through
    `open_dispatcher`, which acquires and releases the lease.
    """

    def __init__(
        self, hold: Hold, home: Home, campaign: Campaign, row: CampaignRow, stage: str | None, launcher: Launcher
    ) -> None:
        self.on_launch: Callable[[str, int], None] = lambda exp_id, attempt: None
        """Called when an attempt of the stage was launched or adopted."""
        self.ends = Ends()
        """What became of each attempt, once that is on record."""
        self.on_news: Callable[[AttemptSpec], None] = lambda spec: None
        """Called when new metric rows of a live attempt are on record."""
        self._hold = hold
        self._campaign = campaign
        self._row = row
        self._hosts = Hosts(launcher, campaign.policy.max_parallel, hold.ledger)
        self._batch = Batch(hold.ledger, home, campaign, row, stage, self._hosts)
        self._prober = Prober(hold, home, campaign, row, self._hosts, launcher)
        self._vram = Vram(hold, campaign, row, self._hosts, self._batch, self._prober)
        self._planner = Planner(hold.ledger, home, campaign, row, self._hosts, self._batch, self._vram, self._prober)
        self._watch = Watch(hold, campaign, launcher)
        self._away = Away(hold, campaign, launcher, self._watch)
        self._reclaim = Reclaim(hold, self._hosts, launcher)
        self._environment = Environment(hold, home, campaign, row, launcher, self._hosts, self._batch, self._vram)
        self._hosts.on_news = woken = self._watch.woken.set
        elsewhere = self._planner.fits_elsewhere
        self._starter = Starter(hold, campaign, launcher, self._batch, self._hosts, elsewhere, woken)
        self._next_look = 0.0
        self._placed_at = 0.0
        """When it was last seen what could start."""

    # -- for the flow that watches ------------------------------------------------------------------------------

    @property
    def waits(self) -> str:
        """Why some that could start did not, at the last placement; empty if nothing waits."""
        return self._planner.waits

    async def run(self) -> None:
        """Work until nothing of the batch can go on: all final, or held for a decision.

        Raises:
            Fenced: another dispatcher took over.
        """
        await self.adopt()
        while True:
            await self._round()
            if not (self._followed or self._batch.waiting or self._starter.unsure or self._prober.running):
                crash_point("batch_ended")
                for live in self._watch.live.values():
                    why = live.said or f"host {live.handle.host} is away"
                    self.ends.tell(AttemptEnd(live.spec.exp_id, live.spec.attempt, ExperimentState.ON_HOLD, why))
                return
            # Not wait_for: up to Python 3.11 it loses a cancellation that comes together with news.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._until_next()):
                    await self._watch.woken.wait()
            self._watch.woken.clear()
            if not self._watch.some_ended:
                self._starter.write_submitted()

    async def tick(self) -> None:
        """One round, to its very end: what ended, what can start, what the live ones report, what must be stopped.

        Doing it twice changes nothing.
        """
        self._next_look = 0.0
        await self._round()
        await self._environment.settle()
        await self._prober.settle()
        await self._away.settle()
        await self._round()  # with what these have found
        for live in await self._starter.settle():
            self._follow(live)
        await self._watch.settle()
        await self._watch.seek_ends()
        if self._watch.some_ended:
            await self._round()
        self._write_unlaunched()
        self._starter.write_submitted()

    async def adopt(self) -> None:
        """Take over what an earlier dispatcher left: attempts that run, have ended, or were about to start."""
        self._next_look = self._hold.now() + LOOK_SECONDS
        await self._hosts.look()
        self._batch.load()
        self._vram.load()
        self._prober.adopt(stop=self._batch.closed)
        intended: list[Try] = []
        for attempt in self._batch.open_attempts():
            spec = spec_from(attempt["spec"])
            on_hold = self._batch.views[spec.exp_id].state == ExperimentState.ON_HOLD
            self._batch.launching(spec, adopted=True)
            if attempt["handle"]:
                since, runs = attempt["started_at"] or attempt["intent_at"], attempt["state"] == AttemptState.RUNNING
                # What a queue has may wait once more: it is not judged before it was seen.
                live = Live(spec, Handle(**attempt["handle"]), since, runs, waits=self._hosts.queue(spec.host))
                live.away_since, live.unsure = self._hold.now() if on_hold else None, True
                if attempt["cursors"]:
                    live.telemetry.resume(attempt["cursors"], self._batch.views[spec.exp_id].metrics)
                self._follow(live)
            else:
                # The intent was written, and perhaps nothing came of it: then the very same token starts now.
                leased = spec.token in self._batch.leased
                intended.append(Try(spec, attempt["intent_at"], leased=leased))
        for live in await self._starter.find_or_start(intended):
            self._follow(live)
        self._write_unlaunched()
        self._starter.write_submitted()
        await self._watch.seek_ends()

    async def cancel_all(self, why: str) -> None:
        """Stop every live attempt of this campaign, and nothing else."""
        await self._prober.cancel_all(why)
        await self._environment.cancel_all()
        await self._watch.stop_all(Diagnosis("cancelled", why, "asked by a person"))

    async def close(self) -> None:
        """Stop watching; what runs goes on."""
        beside = self._planner.origin, self._environment, self._prober, self._starter, self._away, self._reclaim
        for one in (*beside, self._hosts, self._watch):
            await one.close()

    # -- a round, and its one transaction -----------------------------------------------------------------------

    async def _round(self) -> None:
        concluded = await self._conclude() if self._watch.some_ended else []
        for live, outcome in concluded:
            self._batch.ended(live.spec, outcome)
            self._vram.ended(live.spec, outcome)
        await self._environment.look(self._hold.now())
        off = self._planner.call_off(early_stop=bool(concluded))
        intents = self._record(concluded, off)
        self._prober.step()
        for live, outcome in concluded:
            self._close(live, outcome)
        for one in (m for moves in off.values() for m in moves):
            self.ends.tell(AttemptEnd(one.exp_id, self._batch.views[one.exp_id].attempt, one.new, one.why))
        for intent in intents:
            self._batch.launching(intent.spec)
        for live in await self._starter.start([intent.spec for intent in intents]):
            self._follow(live)
        await self._start_checked()
        now = self._hold.now()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            for live in await self._starter.look_again():
                self._follow(live)
            self._away.look(now)
            self._vram.look(now)
            if self._batch.waiting:
                self._reclaim.look(now)
            # First, for metrics of a job that is not on record could not be told from those of a new start of it.
            self._starter.write_submitted()
            for spec in self._watch.look(now):
                self.on_news(spec)
        self._write_unlaunched()

    async def _conclude(self) -> list[tuple[Live, Outcome]]:
        """How the attempts that are over ended, and what follows; nothing is changed yet."""
        ended = await self._watch.take_ended()
        now = self._hold.now()
        return [
            (live, conclude(self._campaign, e, self._batch.fixes(e.spec.exp_id), self._batch.rules(e.spec), now=now))
            for live, e in ended
        ]

    def _record(self, concluded: Sequence[tuple[Live, Outcome]], off: Mapping[str, Sequence[Move]]) -> list[Intent]:
        """Write down what was submitted, what ended, what is called off and what starts next, all in one.

        Returns:
            The attempts to launch: they and their devices are on record.
        """
        self._placed_at = now = self._hold.now()
        busy = len(self._watch.live) + self._starter.unsure + self._prober.running - len(concluded)
        due = self._batch.due(now, most=self._planner.room(busy))
        over = {live.spec.token for live, _ in concluded}
        turned = [turn for turn in self._away.turned() if turn.live.spec.token not in over]
        if not (concluded or off or due or turned):
            return []
        if due and (self._planner.wants_gpus or self._hosts.remote):
            if concluded:
                self._hosts.outdated()
            self._hosts.refresh()
        intents, stale = [], False
        with self._hold.write() as connection:
            if due:
                lock(connection)
            self._starter.record_submitted(connection, now)
            self._vram.record(connection, now)
            self._watch.record_last_words(connection, (live for live, _ in concluded), now)
            self._away.record(connection, turned, now)
            record_outcomes(connection, self._row.id, [outcome for _, outcome in concluded], now=now)
            for who, moves in off.items():
                move(connection, self._row.id, moves, now=now, who=who)
            if due:
                try:
                    with connection.begin_nested():
                        intents = self._planner.place(connection, due, now)
                except Stale:
                    intents, stale = [], True
        self._starter.forget_submitted()
        self._away.held(turned, now)
        if concluded:
            crash_point("outcome_recorded")
        if intents:
            crash_point("intent_recorded")
        if stale:
            self._load_again()
        return intents

    @property
    def _followed(self) -> bool:
        """Whether there are live attempts that may end in a time that can be waited for."""
        now = self._hold.now()
        return any(not self._away.given_up(live, now) for live in self._watch.live.values())

    async def _start_checked(self) -> None:
        for live in await self._starter.start_checked():
            self._follow(live)

    def _follow(self, live: Live) -> None:
        self._watch.follow(live)
        self._vram.follow(live.spec)
        if self._batch.mine(live.spec.exp_id):
            self.on_launch(live.spec.exp_id, live.spec.attempt)

    def _close(self, live: Live, outcome: Outcome) -> None:
        self._watch.leave(live)
        if outcome.move.new == ExperimentState.QUEUED:
            crash_point("retry_planned")
        value = outcome.move.values.get("objective_value")
        spec, course = live.spec, live.telemetry.has_course
        self.ends.tell(AttemptEnd(spec.exp_id, spec.attempt, outcome.move.new, outcome.move.why, value, course))

    def _write_unlaunched(self) -> None:
        for spec, outcome in self._starter.write_unlaunched():
            self.ends.tell(AttemptEnd(spec.exp_id, spec.attempt, outcome.move.new, outcome.move.why))

    def _load_again(self) -> None:
        """Read what others changed; whoever waits for one of those is told."""
        before = set(self._batch.waiting)
        self._batch.load()
        for exp_id in before - set(self._batch.waiting):
            view = self._batch.views[exp_id]
            self.ends.tell(AttemptEnd(exp_id, view.attempt, ExperimentState(view.state), view.reason))

    def _until_next(self) -> float:
        now = self._hold.now()
        due = [self._next_look] if self._watch.live or self._starter.unsure else []
        due += [now + SUBMITTED_SECONDS] if self._starter.submitted else []
        due += [at for e, at in self._batch.retry_at.items() if e in self._batch.waiting and at > self._placed_at]
        due += [at for at in (self._starter.next_at,) if at is not None]
        due += self._planner.again(now, running=bool(self._watch.live))
        return max(0.0, min(due, default=now + LOOK_SECONDS) - now)


@asynccontextmanager
async def open_dispatcher(
    ledger: Ledger, home: Home, campaign: Campaign, row: CampaignRow, stage: str | None, launcher: Launcher
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that holds the campaign's lease for as long as the block lasts.

    With no stage it starts nothing new: it only follows to their ends what runs already.

    Raises:
        Driven: another dispatcher is at work on this campaign.
        Fenced: the campaign has another plan by now.
    """
    with holding(ledger, row) as hold:
        dispatcher = Dispatcher(hold, home, campaign, row, stage, launcher)
        kept = asyncio.create_task(keep(hold))
        try:
            yield dispatcher
        finally:
            kept.cancel()
            await dispatcher.close()
            launcher.close()
