"""Jobs on hosts that do not answer: their experiments are on hold until the host is back; the jobs may run on."""

import asyncio
import logging
from collections.abc import Iterable

from sqlalchemy import Connection

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.telemetry import Heard
from prefect_campaign.engine.watching import Live, Watch
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.model.states import ExperimentState

POLL_SECONDS = 20.0
"""How often jobs on other machines are looked at, besides what their launcher tells by itself."""

log = logging.getLogger("prefect_campaign")


class Away:
    """Follows whether the hosts of one dispatcher's jobs answer.

    Args:
        hold: the campaign.
        launcher: observes the jobs.
        watch: knows the live ones; it is told of ends that are seen here.
        patience: seconds that a batch waits for a host to be back.
    """

    def __init__(self, hold: Hold, launcher: Launcher, watch: Watch, patience: float) -> None:
        self._patience = patience
        self._hold = hold
        self._launcher = launcher
        self._watch = watch
        self._next_poll = 0.0
        self._poll: asyncio.Task[None] | None = None
        self._turned: dict[str, Live] = {}

    def look(self, now: float) -> None:
        """See beside everything else whether the hosts of jobs elsewhere still answer."""
        remote = [v for v in self._watch.live.values() if v.handle.host != host_name()]
        if remote and self._poll is None and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._poll = asyncio.create_task(self._see(remote, now))

    def turned(self) -> list[Live]:
        """Live attempts whose host does not answer any more, or does so again; each is to be recorded, then `held`."""
        return [live for token, live in self._turned.items() if token in self._watch.live]

    def record(self, connection: Connection, lives: Iterable[Live], now: float) -> None:
        """Put experiments on hold whose host is away, take them back when it is there; their attempts stay open."""
        for live in lives:
            away = live.away_since is None
            new = ExperimentState.ON_HOLD if away else ExperimentState.RUNNING
            why = f"host {live.handle.host} does not answer; the job may run on" if away else "its host answers again"
            one = Move(live.spec.exp_id, live.state, new, why)
            move(connection, self._hold.campaign_id, [one], now=now, who="watch")

    def held(self, lives: Iterable[Live], now: float) -> None:
        """That is on record."""
        for live in lives:
            live.away_since = now if live.away_since is None else None
            self._turned.pop(live.spec.token, None)

    def given_up(self, live: Live, now: float) -> bool:
        """Whether its host is away for so long that a batch does not wait for it any longer."""
        return live.away_since is not None and now - live.away_since > self._patience

    async def close(self) -> None:
        """Stop looking."""
        await stop(self._poll)

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
            live.heard = Heard(now, one.quiet_since) if one is not None and one.quiet_since is not None else None
            if one is None:
                continue
            live.reach = live.reach.after(one.status != "unreachable")
            if one.status in ("exited", "gone"):
                self._watch.maybe_over(live.spec.token)
            elif live.reach.away if live.away_since is None else not live.reach.missed_in_a_row:
                self._turned[live.spec.token] = live
                self._watch.woken.set()
