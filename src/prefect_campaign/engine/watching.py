"""Attempts that are under way: what they report, when to stop them, and how they ended."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.outcomes import Ended
from prefect_campaign.engine.telemetry import Heard, Telemetry
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.alerts import add_alert
from prefect_campaign.ledger.observations import add_metrics
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Handle
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.watch.reach import Reach

TIMED = frozenset({"slurm", "pbs"})
"""Launchers whose schedulers end a job at its time limit."""
NON_FINITE = "nan_inf_loss"
"""Syndrome of the alert on a loss or objective that is not finite."""

log = logging.getLogger("prefect_campaign")


@dataclass
class Live:
    """A launched attempt."""

    spec: AttemptSpec
    handle: Handle
    launched_at: float
    """Seconds since the epoch."""
    started: bool = True
    """Whether it is on record that it runs; else it waits in a scheduler's queue."""
    unsure: bool = False
    """Whether it is from before this process, which has not seen it alive: it may have been over for long."""
    waits: bool = False
    """Whether it waited in a queue when that was last asked, perhaps once more: its silence then means nothing."""
    telemetry: Telemetry = field(init=False)
    stopped: Diagnosis | None = None
    """Why it is being stopped; that, and not how it then dies, is why it failed."""
    stopping: bool = False
    """Whether a cancellation is under way, or went through."""
    warned: bool = False
    """Whether its loss was seen not to be finite."""
    reach: Reach = field(default_factory=Reach)
    away_since: float | None = None
    """Since when its experiment is on hold: its host does not answer, or it is stuck in a queue."""
    said: str = ""
    """What a queue said last about its waiting."""
    heard: Heard | None = None
    """What its host said at the last look, if it runs on another one and that answered."""
    excused_at: float = 0.0
    """When it was last seen to wait, to be suspended, or to have no files yet: silence before that means nothing."""

    @property
    def state(self) -> ExperimentState:
        """State of its experiment on record."""
        if self.away_since is not None:
            return ExperimentState.ON_HOLD
        return ExperimentState.RUNNING if self.started else ExperimentState.LAUNCHING

    @property
    def last_sign(self) -> float | None:
        """When it wrote something last, in seconds since the epoch; None if it was seen since, or ran elsewhere."""
        here = self.unsure and self.handle.host == host_name()
        return self.telemetry.quiet_since(self.launched_at) if here else None

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.spec)

    def silent_for(self, now: float) -> float:
        """Seconds without a log line or a metric, as far as is known; 0 if nothing is.

        Files of a job elsewhere are copies here: old ones may mean no more than that nothing was copied.
        """
        if self.handle.host == host_name():
            return now - self.telemetry.quiet_since(self.launched_at)
        return self.heard.silent_for(self.launched_at, now) if self.heard else 0.0


@dataclass(frozen=True)
class Alert:
    """What people must hear of an attempt."""

    spec: AttemptSpec
    syndrome: str
    message: str
    label: str
    effect: str
    """What the policy did about it: ``stop`` or ``continue``."""

    def record(self, connection: Connection, campaign_id: int, now: float) -> None:
        """Put it on record, once per attempt and syndrome."""
        add_alert(
            connection,
            campaign_id,
            self.spec.exp_id,
            self.spec.attempt,
            severity="critical",
            syndrome=self.syndrome,
            message=f"{self.spec.exp_id} attempt {self.spec.attempt}: {self.message}",
            choices=[{"label": self.label, "effect": self.effect}],
            effect=self.effect,
            created_at=now,
        )


class Watch:
    """The live attempts of one dispatcher. What it sees decides nothing by itself: the dispatcher records it."""

    def __init__(self, hold: Hold, campaign: Campaign, launcher: Launcher) -> None:
        self.live: dict[str, Live] = {}
        """By token."""
        self.woken = asyncio.Event()
        """Set when a live attempt is over."""
        self._hold = hold
        self._campaign = campaign
        self._launcher = launcher
        self._over: set[str] = set()
        self._cancelling: set[asyncio.Task[None]] = set()

    @property
    def some_ended(self) -> bool:
        """Whether there may be ends that were not taken yet."""
        return bool(self._over)

    def follow(self, live: Live) -> None:
        """Watch an attempt from now on."""
        self.live[live.spec.token] = live
        self._launcher.watch(live.spec, live.handle, self.maybe_over)

    def leave(self, live: Live) -> None:
        """Its end is on record."""
        del self.live[live.spec.token]

    def maybe_over(self, token: str) -> None:
        """An attempt was seen to be over, or should be looked at."""
        self._over.add(token)
        self.woken.set()

    async def seek_ends(self) -> None:
        """See what is over already, without waiting for the launcher's call."""
        seen = await self._launcher.observe([(v.spec, v.handle) for v in self.live.values()])
        self._over.update(t for t, one in seen.items() if one.status in ("exited", "gone"))
        for token, one in seen.items():
            self.live[token].unsure &= one.status != "running"

    async def take_ended(self) -> list[tuple[Live, Ended]]:
        """The attempts that are over, with all that is known of them."""
        lives = [self.live[t] for t in self._over if t in self.live]
        self._over.clear()
        if not lives:
            return []
        seen = await self._launcher.observe([(v.spec, v.handle) for v in lives])
        crash_point("exit_seen")
        found = []
        for live in lives:
            observation = seen[live.spec.token]
            if observation.status in ("pending", "running", "unreachable"):
                self._launcher.watch(live.spec, live.handle, self.maybe_over)
                continue
            live.telemetry.read_rest()
            failed = observation.status != "exited" or observation.exit_code != 0
            ended = Ended(
                spec=live.spec,
                state=live.state,
                seen=observation,
                metrics=live.telemetry.final,
                non_finite=live.telemetry.non_finite(self._campaign.objective.metric),
                stdout_tail=live.telemetry.tail("stdout.log") if failed else "",
                stderr_tail=live.telemetry.tail("stderr.log") if failed else "",
                stopped=live.stopped,
                began=live.launched_at if live.started else None,
                timed=live.handle.launcher in TIMED,
                last_sign=live.last_sign,
            )
            found.append((live, ended))
        return found

    def record_last_words(self, connection: Connection, lives: Iterable[Live], now: float) -> None:
        """Write what attempts that are over had still to report, in the transaction that closes them."""
        lives = list(lives)
        self._record_metrics(connection, lives)
        for live in lives:
            broken = live.telemetry.non_finite(self._campaign.objective.metric)
            if broken and not live.warned:
                alert = Alert(live.spec, NON_FINITE, f"{broken} was not finite at its end", "It was over", "continue")
                alert.record(connection, self._hold.campaign_id, now)

    def look(self, now: float) -> list[AttemptSpec]:
        """Read what live attempts report, in one transaction; stop what is beyond help.

        Returns:
            The attempts that reported something.
        """
        # What waits in a queue has written nothing: thousands of files need not be asked for.
        news = [live for live in self.live.values() if live.started and live.telemetry.read()]
        alerts = [alert for live in self.live.values() if (alert := self._judge(live, now)) is not None]
        with self._hold.write() as connection:
            self._hold.renew(connection, now)
            self._record_metrics(connection, news)
            for alert in alerts:
                alert.record(connection, self._hold.campaign_id, now)
        self._cancel_stopped()
        return [live.spec for live in news]

    async def stop_all(self, why: Diagnosis) -> None:
        """Stop every live attempt; one that resists is tried again at the next look."""
        for live in self.live.values():
            live.stopped = why
        self._cancel_stopped()
        await self.settle()

    async def settle(self) -> None:
        """Wait for the cancellations that are under way."""
        await asyncio.gather(*self._cancelling)

    async def close(self) -> None:
        """Give up the cancellations that are under way; whoever watches next decides anew."""
        for task in self._cancelling:
            task.cancel()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    def _record_metrics(self, connection: Connection, lives: Iterable[Live]) -> None:
        readings = [reading for live in lives if (reading := live.telemetry.take()) is not None]
        add_metrics(connection, self._hold.campaign_id, readings)

    def _judge(self, live: Live, now: float) -> Alert | None:
        """What is new about an attempt that people must hear; also marks what must be stopped."""
        if live.stopped is not None or live.away_since is not None:  # no news from there is no sign of anything
            return None
        if live.waits or not live.started:
            return None
        broken = live.telemetry.non_finite(self._campaign.objective.metric)
        live.stopped = reason_to_stop(self._campaign, live, now)
        if live.stopped is not None:
            syndrome = NON_FINITE if live.stopped.signature == "nan_loss" else live.stopped.signature
            live.warned |= syndrome == NON_FINITE
            return Alert(live.spec, syndrome, f"{live.stopped.cause}; stopped", "Stopped by policy", "stop")
        if broken and not live.warned:
            live.warned = True
            return Alert(live.spec, NON_FINITE, f"{broken} is not finite; goes on", "Continued by policy", "continue")
        return None

    def _cancel_stopped(self) -> None:
        for live in self.live.values():
            if live.stopped is not None and not live.stopping:
                live.stopping = True
                # Not awaited: ending a stubborn job takes seconds, and the others must not wait for it.
                task = asyncio.create_task(self._cancel(live))
                self._cancelling.add(task)
                task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, live: Live) -> None:
        try:
            await self._launcher.cancel(live.spec, live.handle)
        except Exception as error:
            live.stopping = False
            log.warning("%s: could not be stopped, will be tried again: %s", live.spec.token, error)


def reason_to_stop(campaign: Campaign, live: Live, now: float) -> Diagnosis | None:
    """Why an attempt that runs must not go on; None if it may."""
    policy, spec = campaign.policy, live.spec
    broken = live.telemetry.non_finite(campaign.objective.metric)
    if broken and policy.on_non_finite == "stop":
        return Diagnosis("nan_loss", f"{broken} is not finite", f"last value of {broken} in {spec.run_dir}")
    # A scheduler was told of it, and knows for how long a job was suspended.
    limit = spec.time_minutes if live.handle.launcher not in TIMED else None
    if limit is not None and now - live.launched_at > limit * 60:
        return Diagnosis("timeout", f"over resources.time_minutes ({limit:g})", f"launched {live.launched_at:.0f}")
    if live.silent_for(now) > policy.hang_minutes * 60:
        return Diagnosis("hang", f"no log and no metric for {policy.hang_minutes:g} min", spec.run_dir)
    return None
