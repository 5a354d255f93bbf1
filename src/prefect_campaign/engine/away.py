"""Jobs on other machines and in queues: whether their host answers, whether they wait, and since when they run."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.telemetry import Heard
from prefect_campaign.engine.watching import Live, Watch
from prefect_campaign.launch.fleet import queues_of
from prefect_campaign.launch.identity import LOCAL
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher, Queue
from prefect_campaign.ledger.alerts import add_alert
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.ledger.queued import explain, record_running
from prefect_campaign.model.records import Observation
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.model.text import printable
from prefect_campaign.watch.cadence import seconds_until_look

POLL_SECONDS = 20.0
"""How often jobs on other machines are looked at, besides what their launcher tells by itself."""
NEW_SECONDS = 120.0
"""So long after a job was handed to a queue its scheduler is asked often: what can never start may say so at once."""
NEW_POLL_SECONDS = 15.0
HELD_POLL_SECONDS = 60.0
"""How often it is asked, at least, while an experiment is on hold."""
STUCK = "stuck_in_queue"
"""Syndrome of the alert on a job that will not start unless somebody does something."""

MOST_WORDS = 300
"""Characters of what is said about a host that are kept as a reason."""

log = logging.getLogger("prefect_campaign")


@dataclass(frozen=True)
class Turn:
    """What a look at a job changes."""

    live: Live
    new: ExperimentState
    """State of its experiment; the one that it has if only the reason is another."""
    why: str
    node: str = ""
    started_at: float | None = None
    """Since when it runs, in seconds since the epoch, if it did not before."""
    stuck: bool = False


class Away:
    """Follows the jobs of one dispatcher that are not processes of this machine, whose ends it sees by itself.

    Args:
        hold: the campaign.
        campaign: its spec.
        launcher: observes the jobs.
        watch: knows the live ones; it is told of ends that are seen here.
    """

    def __init__(self, hold: Hold, campaign: Campaign, launcher: Launcher, watch: Watch) -> None:
        self._patience = campaign.policy.retry_hours * 3600
        self._expected = campaign.resources.expected_minutes
        self._hold = hold
        self._launcher = launcher
        self._queues = queues_of(launcher)
        self._watch = watch
        self._next_poll = 0.0
        self._poll: asyncio.Task[None] | None = None
        self._turned: dict[str, Turn] = {}

    def look(self, now: float) -> None:
        """See beside everything else how jobs elsewhere are."""
        remote = [v for v in self._watch.live.values() if v.handle.launcher != LOCAL]
        if remote and self._poll is None and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            for host, queue in self._queues.items():
                self._pace(queue, [v for v in remote if v.handle.host == host], now)
            self._poll = asyncio.create_task(self._see(remote, now))

    def turned(self) -> list[Turn]:
        """What is to be recorded of live attempts, then to be `held`."""
        return [turn for token, turn in self._turned.items() if token in self._watch.live]

    def record(self, connection: Connection, turns: Iterable[Turn], now: float) -> None:
        """Put experiments on hold that cannot go on now, take them back when they can; their attempts stay open."""
        for turn in turns:
            spec, old = turn.live.spec, turn.live.state
            if turn.new == old:
                explain(connection, self._hold.campaign_id, {spec.exp_id: turn.why}, now=now)
            else:
                one = Move(spec.exp_id, old, turn.new, turn.why)
                move(connection, self._hold.campaign_id, [one], now=now, who="watch")
            if turn.started_at is not None:
                record_running(connection, spec.token, turn.node, turn.started_at)
            if turn.stuck:
                add_alert(
                    connection,
                    self._hold.campaign_id,
                    spec.exp_id,
                    spec.attempt,
                    severity="warning",
                    syndrome=STUCK,
                    message=f"{spec.exp_id} attempt {spec.attempt}: {turn.why}",
                    choices=[{"label": "On hold by policy", "effect": "hold"}],
                    effect="hold",
                    created_at=now,
                )

    def held(self, turns: Iterable[Turn], now: float) -> None:
        """That is on record."""
        for turn in turns:
            live = turn.live
            live.away_since = now if turn.new == ExperimentState.ON_HOLD else None
            live.said = turn.why
            if turn.started_at is not None:
                live.started, live.launched_at = True, turn.started_at
            self._turned.pop(live.spec.token, None)

    def given_up(self, live: Live, now: float) -> bool:
        """Whether it is on hold for so long that a batch does not wait for it any longer."""
        return live.away_since is not None and now - live.away_since > self._patience

    async def settle(self) -> None:
        """Wait until the look that is under way is over; `turned` then says what came of it."""
        if self._poll is not None:
            await asyncio.wait([self._poll])

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._poll)

    def _pace(self, queue: Queue, lives: list[Live], now: float) -> None:
        """How often a scheduler is worth asking."""
        if not lives:
            queue.poll_seconds = POLL_SECONDS
            return
        waiting = sum(live.waits or not live.started for live in lives)
        seconds = seconds_until_look(
            pending=waiting, running=len(lives) - waiting, events=False, expected_minutes=self._expected
        )
        new = any(now - live.launched_at < NEW_SECONDS for live in lives)
        held = any(live.away_since is not None for live in lives)  # people mend it, and look whether that helped
        queue.poll_seconds = min(seconds, NEW_POLL_SECONDS if new else HELD_POLL_SECONDS if held else seconds)

    async def _see(self, lives: list[Live], now: float) -> None:
        try:
            seen = await self._launcher.observe([(v.spec, v.handle) for v in lives])
        except Exception as error:  # it tells nothing about the jobs
            log.warning("jobs elsewhere could not be looked at: %s", error)
            seen = {}
        finally:
            self._poll = None
        for live in lives:
            one = seen.get(live.spec.token)
            live.heard = None
            if one is None:
                continue
            if one.quiet_since is not None:
                live.heard = Heard(now, max(one.quiet_since, live.excused_at))
            elif one.status != "unreachable":
                live.excused_at = now
            live.reach = live.reach.after(one.status != "unreachable")
            if one.status != "unreachable":
                live.waits = one.status == "pending"
            if one.status in ("exited", "gone"):
                self._watch.maybe_over(live.spec.token)
                continue
            if live.started and one.status == "running" and live.handle.host in self._queues:
                began = min(one.started_at or 0.0, now)  # a file server's clock may be ahead
                live.launched_at = max(live.launched_at, began)  # its scheduler ran it once more
            turn = _queue_turn(live, one, now) if live.handle.host in self._queues else _host_turn(live, one)
            if turn is not None:
                self._turned[live.spec.token] = turn
                self._watch.woken.set()


def _host_turn(live: Live, one: Observation) -> Turn | None:
    """A host that does not answer; its jobs may run on."""
    here = live.handle.host == host_name()
    what = f"{live.handle.launcher} on this machine" if here else f"host {live.handle.host}"
    if live.away_since is None and live.reach.away:
        if one.host_answers:
            return Turn(live, ExperimentState.ON_HOLD, printable(one.detail))
        why = f" ({printable(one.detail)[:MOST_WORDS]})" if one.detail else ""
        return Turn(live, ExperimentState.ON_HOLD, f"{what} does not answer{why}; the job may run on")
    if live.away_since is not None and not live.reach.missed_in_a_row:
        return Turn(live, ExperimentState.RUNNING, f"{what if here else 'its host'} answers again")
    return None


def _queue_turn(live: Live, one: Observation, now: float) -> Turn | None:
    """A scheduler that does not answer says nothing: its jobs wait or run as before."""
    if one.status == "running" and (not live.started or live.away_since is not None):
        # By a file server's clock, which may be late or ahead: not before it was handed over, and not after now.
        since = None if live.started else min(max(one.started_at or now, live.launched_at), now)
        return Turn(live, ExperimentState.RUNNING, f"runs on {one.node or live.handle.host}", one.node, since)
    if one.status != "pending" or live.started:  # one that is requeued has run: it stays so on record
        return None
    if one.stuck:
        return Turn(live, ExperimentState.ON_HOLD, one.detail, stuck=True) if live.away_since is None else None
    if live.away_since is not None or one.detail != live.said:
        return Turn(live, ExperimentState.LAUNCHING, one.detail)
    return None
