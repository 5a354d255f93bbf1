"""A last look at the chosen GPUs before a launch: whoever else is on them is never barged in on."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.ledger import alerts, leases
from prefect_campaign.ledger.alerts import ANYWAY, ELSEWHERE, STOP
from prefect_campaign.ledger.queued import explain
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.records import AttemptSpec

BUSY_PERCENT = 85
"""Utilisation, or share of the memory in use, from which a GPU counts as busy."""
POLL_SECONDS = 10.0
ALERT_SECONDS = 180.0
"""So long is waited in silence for a busy GPU; then people are asked."""
SYNDROME = "gpu_busy"

log = logging.getLogger("prefect_campaign")


@dataclass
class Waiting:
    """An attempt whose GPUs are looked at before it starts."""

    spec: AttemptSpec
    since: float
    """Seconds since the epoch."""
    next_look: float
    busy: str = ""
    told: str = ""
    """What `campaign status` says of it."""
    asked_at: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of an attempt that was looked after."""

    spec: AttemptSpec
    effect: str
    """``start``, ``elsewhere`` or ``stop``."""
    why: str = ""


class Preflight:
    """The attempts of one dispatcher that wait for their GPUs to be free.

    Args:
        hold: the campaign.
        hosts: looks at its machines.
        elsewhere: whether an attempt could be placed on other GPUs now.
        woken: called when there is something to take.
    """

    def __init__(
        self, hold: Hold, hosts: Hosts, elsewhere: Callable[[AttemptSpec], bool], woken: Callable[[], None]
    ) -> None:
        self._hold = hold
        self._hosts = hosts
        self._elsewhere = elsewhere
        self._woken = woken
        self._waiting: dict[str, Waiting] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, tuple[float, HostView]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_at(self) -> float | None:
        """When something is to be done next, unless it is under way; seconds since the epoch."""
        return min((w.next_look for w in self._waiting.values() if w.spec.host not in self._looks), default=None)

    def begin(self, spec: AttemptSpec, since: float) -> None:
        """Have an attempt's GPUs looked at, which was to start at `since` (seconds since the epoch)."""
        now = self._hold.now()
        # After a crash this may be an attempt that people were asked about: their answer still holds.
        with self._hold.ledger.read() as connection:
            asked_at = alerts.asked_at(connection, self._hold.campaign_id, spec.exp_id, spec.attempt, syndrome=SYNDROME)
        self._waiting[spec.token] = Waiting(spec, since, now, asked_at=asked_at)

    def step(self) -> list[Verdict]:
        """Look where it is time, and say what becomes of those that need not wait any longer."""
        now = self._hold.now()
        verdicts = [v for w in list(self._waiting.values()) if (v := self._verdict(w, now)) is not None]
        for verdict in verdicts:
            del self._waiting[verdict.spec.token]
        if any(w.busy and w.next_look <= now for w in self._waiting.values()):
            self._hosts.refresh()  # nobody else may look at the other GPUs, to which it could go
        for host in {w.spec.host for w in self._waiting.values() if w.next_look <= now} - set(self._looks):
            self._looks[host] = asyncio.create_task(self._look(host))
        return verdicts

    def settle_alert(self, connection: Connection, spec: AttemptSpec, effect: str) -> None:
        """What became of an attempt, in the transaction that puts it on record: people are asked no more.

        Not before: an answer that has not taken effect yet must be found again after a crash.
        """
        if spec.gpus:
            where = self._hold.campaign_id, spec.exp_id, spec.attempt
            alerts.settle(connection, *where, syndrome=SYNDROME, effect=effect)

    async def trouble(self, host: str) -> str:
        """Why nothing can be started on a host now; empty if it can."""
        try:
            return (await self._hosts.look_at(host)).problem
        except Exception as error:
            return str(error) or type(error).__name__

    async def settle(self) -> None:
        """Wait until the looks that are under way are over; `step` then says what came of them."""
        if self._looks:
            await asyncio.wait(self._looks.values())

    async def close(self) -> None:
        """Stop looking; nothing was started."""
        await stop(*self._looks.values())

    async def _look(self, host: str) -> None:
        began = self._hold.now()
        try:
            view = await self._hosts.look_at(host)
        except Exception as error:
            view = HostView(host, 0, problem=str(error))
        self._seen[host] = began, view
        del self._looks[host]
        self._woken()

    def _verdict(self, one: Waiting, now: float) -> Verdict | None:
        seen = self._seen.get(one.spec.host)
        if seen is None or seen[0] < one.next_look:
            return None
        with self._hold.ledger.read() as connection:
            taken = leases.held(connection, [one.spec.host])
        one.busy = busy_for(one.spec, seen[1], taken)
        answer = self._answer(one) if one.asked_at is not None else None
        if answer is not None:
            crash_point("answer_taken")
        if answer == STOP:  # whatever has become of the GPU since then
            return Verdict(one.spec, "stop", "; ".join(filter(None, (one.busy, "stopped by a person"))))
        if one.spec.token not in {lease.token for lease in taken}:
            return Verdict(one.spec, "elsewhere", "its GPUs were given to others")
        if not one.busy:
            return Verdict(one.spec, "start")
        crash_point("gpu_found_busy")
        one.next_look = now + POLL_SECONDS
        if self._elsewhere(one.spec):  # nobody need wait, nor be asked
            return Verdict(one.spec, "elsewhere", f"{one.busy}; another GPU is taken")
        if answer == ANYWAY:
            return Verdict(one.spec, "start", f"{one.busy}; continued anyway")
        if one.asked_at is None and now - one.since >= ALERT_SECONDS:
            self._ask(one, now)
        self._tell(one, now)
        # Another GPU is taken as soon as there is one, whether people say so or not; without it, waiting goes on.
        return None

    def _tell(self, one: Waiting, now: float) -> None:
        """Let people see at once why it does not start."""
        if one.busy != one.told:
            with self._hold.write() as connection:
                explain(connection, self._hold.campaign_id, {one.spec.exp_id: f"waits: {one.busy}"}, now=now)
            one.told = one.busy

    def _ask(self, one: Waiting, now: float) -> None:
        one.asked_at = now
        log.warning("%s: waits for a busy GPU: %s", one.spec.token, one.busy)
        with self._hold.write() as connection:
            alerts.raise_alert(
                connection,
                self._hold.campaign_id,
                one.spec.exp_id,
                one.spec.attempt,
                syndrome=SYNDROME,
                message=f"{one.spec.exp_id} attempt {one.spec.attempt} waits: {one.busy}",
                choices=(ANYWAY, ELSEWHERE, STOP),
                now=now,
            )
        crash_point("alert_raised")

    def _answer(self, one: Waiting) -> str | None:
        with self._hold.ledger.read() as connection:
            return alerts.answer_of(
                connection, self._hold.campaign_id, one.spec.exp_id, one.spec.attempt, syndrome=SYNDROME
            )


def tenants(taken: Sequence[leases.Lease], host: str, uuid: str) -> list[str]:
    """Run dirs of all attempts that have a lease on a GPU."""
    return [one.run_dir for one in taken if (one.host, one.device) == (host, uuid) and one.run_dir]


def busy(gpu: Gpu, tenants: Collection[str]) -> str:
    """Why a GPU must not be used now; empty if it may.

    Args:
        gpu: as it is now.
        tenants: run dir of every attempt that has a lease on it: these may be there. Whole paths: another home may have
            a campaign of the same name.
    """
    name = f"GPU {gpu.named} ({gpu.name})"
    if gpu.problem:
        return f"{name}: {gpu.problem}"
    computing = [p for p in gpu.processes if not p.graphics]
    others = [p for p in computing if p.run_dir not in tenants]
    if others:
        who = ", ".join(f"{p.user}'s {p.command} (pid {p.pid})" for p in others[:3])
        return f"{name} is used by {who}" + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    if computing:  # our own, who share it: their memory is in their leases
        return ""
    if gpu.utilisation is not None and gpu.utilisation >= BUSY_PERCENT:
        return f"{name} is at {gpu.utilisation} % utilisation"
    if gpu.total_mb and gpu.used_mb * 100 >= gpu.total_mb * BUSY_PERCENT:
        return f"{name} has {gpu.used_mb} of {gpu.total_mb} MiB in use"
    return ""


def busy_for(spec: AttemptSpec, view: HostView, taken: Sequence[leases.Lease]) -> str:
    """Why an attempt must not start on its GPUs now; empty if it may."""
    problem = view.problem or view.gpu_problem
    if problem:
        return f"{view.host}: {problem}"
    by_uuid = {g.uuid: g for g in view.gpus}
    for uuid in spec.gpus:
        gpu = by_uuid.get(uuid)
        found = f"{uuid} is not there any more" if gpu is None else busy(gpu, tenants(taken, view.host, uuid))
        if found:
            return f"{view.host}: {found}"
    return ""
