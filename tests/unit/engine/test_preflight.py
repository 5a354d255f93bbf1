"""The last look before a launch: when a GPU counts as busy, and what follows as minutes pass and people answer."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from unit.ledger.ledger_data import Book, attempt_of, register_demo

from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.preflight import ALERT_SECONDS, POLL_SECONDS, Preflight, busy
from prefect_campaign.ledger import alerts, leases
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.leases import Claim
from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.model.errors import Refused, Transient

PILOT = "p1_main_lr1_s0"
OURS = "/home/ada/.prefect-campaign/campaigns/demo/runs/x/a1"
TWIN = "/srv/eve/campaigns/demo/runs/x/a1"
"""Of another home, with the same names for everything below it."""
FREE = Gpu("GPU-a", 0, "RTX", total_mb=24000, utilisation=0)
STRANGER = GpuProcess(7, 500, user="eve", command="python")
TAKEN = Gpu("GPU-a", 0, "RTX", total_mb=24000, used_mb=500, utilisation=1, processes=(STRANGER,))


@pytest.mark.parametrize(
    ("gpu", "tenants", "found"),
    [
        (FREE, [], ""),
        (TAKEN, [], "GPU 0 (RTX) is used by eve's python (pid 7)"),
        (Gpu("GPU-a", 1, "RTX", utilisation=84, total_mb=100, used_mb=84), [], ""),
        (Gpu("GPU-a", 1, "RTX", utilisation=85), [], "85 % utilisation"),
        (Gpu("GPU-a", 1, "RTX", total_mb=100, used_mb=85), [], "85 of 100 MiB in use"),
        (Gpu("GPU-a", 1, "RTX", problem="is lost"), [], "is lost"),
        (Gpu("GPU-a", 1, processes=(GpuProcess(7, 100, graphics=True),)), [], ""),
        (Gpu("GPU-a", 1, processes=(GpuProcess(7, None),)), [], "is used by"),
        # Those who share it may be there and work; an attempt that has no lease there any more may not.
        (Gpu("GPU-a", 1, utilisation=99, processes=(GpuProcess(7, 9, run_dir=OURS),)), [OURS], ""),
        (Gpu("GPU-a", 1, utilisation=99, processes=(GpuProcess(7, 9, run_dir=OURS),)), [], "is used by"),
        (Gpu("GPU-a", 1, processes=(GpuProcess(7, 9, run_dir=OURS), STRANGER)), [OURS], "eve's python"),
        (Gpu("GPU-a", 1, processes=(GpuProcess(7, 9, run_dir=TWIN),)), [OURS], "is used by"),
    ],
)
def test_when_a_gpu_is_busy(gpu: Gpu, tenants: list[str], found: str) -> None:
    assert found in busy(gpu, tenants)
    assert bool(busy(gpu, tenants)) == bool(found)


@dataclass
class Machine:
    """A host as the dispatcher sees it."""

    gpu: Gpu | None = FREE
    problem: str = ""
    looks: int = 0

    refreshed: int = 0

    def refresh(self) -> None:
        self.refreshed += 1

    async def look_at(self, host: str) -> HostView:
        self.looks += 1
        if self.problem:
            raise Transient(self.problem)
        return HostView(host, 1, (self.gpu,) if self.gpu else ())


@dataclass
class Desk:
    """A preflight with one attempt in it, and a clock that only moves when told."""

    book: Book
    clock: Any
    machine: Machine = field(default_factory=Machine)
    others: bool = False
    """Whether there is another GPU to go to."""

    crashes: bool = False
    """Whether it dies before what becomes of the attempt is on record."""

    def __post_init__(self) -> None:
        spec = replace(attempt_of(PILOT, 1), host="h1", gpus=("GPU-a",))
        with self.book.ledger.write() as connection:
            leases.take(connection, self.book.row.id, [Claim("h1", spec.gpus, spec.token)], now=self.clock())
        self.spec, self.token, self.since = spec, spec.token, self.clock()
        self.begin()

    def begin(self) -> None:
        """A process that has just started drives the campaign."""
        hold = Hold(self.book.ledger, self.book.row.id, self.book.row.fence)
        self.woken = asyncio.Event()
        self.preflight = Preflight(hold, self.machine, lambda spec: self.others, self.woken.set)  # type: ignore[arg-type]
        self.preflight.begin(self.spec, self.since)

    async def step(self) -> list[tuple[str, str]]:
        """One look and what is made of it."""
        first = self.preflight.step()
        if not first:
            self.woken.clear()
            await asyncio.wait_for(self.woken.wait(), 5)
        found = first or self.preflight.step()
        if not self.crashes:
            with self.book.ledger.write() as connection:
                for verdict in found:
                    self.preflight.settle_alert(connection, verdict.spec, verdict.effect)
        return [(v.effect, v.why) for v in found]

    async def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Poll as a dispatcher does until something becomes of the attempt, at most so long."""
        for _ in range(int(seconds / POLL_SECONDS)):
            self.clock.advance(POLL_SECONDS)
            found = await self.step()
            if found:
                return found
        return []

    def alerts(self) -> list[dict[str, Any]]:
        return self.book.rows(t.alerts)

    def answer(self, choice: str) -> None:
        with self.book.ledger.write() as connection:
            alerts.answer(connection, self.alerts()[-1]["id"], choice, by="ann", now=self.clock())


@pytest.fixture
def desk(ledger: Any, clock: Any) -> Desk:
    return Desk(register_demo(ledger), clock)


async def test_a_free_gpu_is_used_at_once(desk: Desk) -> None:
    assert await desk.step() == [("start", "")]
    assert len(desk.preflight) == 0
    assert desk.alerts() == []


async def test_a_busy_one_is_waited_for_in_silence_then_people_are_asked(desk: Desk) -> None:
    desk.machine.gpu = TAKEN
    assert await desk.step() == []
    assert await desk.wait(ALERT_SECONDS - POLL_SECONDS) == []
    assert desk.alerts() == []
    assert await desk.wait(POLL_SECONDS) == []
    (alert,) = desk.alerts()
    assert "used by eve's python (pid 7)" in alert["message"]
    assert [c["label"] for c in alert["choices"]] == ["Continue anyway", "Pick another GPU", "Stop"]
    assert desk.machine.looks == 1 + ALERT_SECONDS / POLL_SECONDS


async def test_status_says_at_once_what_it_waits_for(desk: Desk) -> None:
    with desk.book.ledger.write() as connection:
        connection.execute(t.experiments.update().where(t.experiments.c.exp_id == PILOT).values(state="launching"))
    desk.machine.gpu = TAKEN
    await desk.step()
    (view,) = [v for v in desk.book.rows(t.experiments) if v["exp_id"] == PILOT]
    assert view["reason"] == "waits: h1: GPU 0 (RTX) is used by eve's python (pid 7)"
    desk.machine.gpu = replace(TAKEN, problem="is lost")
    await desk.wait(POLL_SECONDS)
    (view,) = [v for v in desk.book.rows(t.experiments) if v["exp_id"] == PILOT]
    assert "is lost" in view["reason"]


async def test_it_starts_as_soon_as_the_gpu_is_free(desk: Desk) -> None:
    desk.machine.gpu = TAKEN
    assert await desk.wait(ALERT_SECONDS + POLL_SECONDS) == []
    desk.machine.gpu = FREE
    assert await desk.wait(POLL_SECONDS) == [("start", "")]
    assert desk.alerts()[0]["effect"] == "start"


@pytest.mark.parametrize(("choice", "effect"), [("continue anyway", "start"), ("Stop", "stop")])
async def test_what_people_answer_is_done(desk: Desk, choice: str, effect: str) -> None:
    desk.machine.gpu = TAKEN
    await desk.wait(ALERT_SECONDS + POLL_SECONDS)
    desk.answer(choice)
    ((found, why),) = await desk.wait(POLL_SECONDS)
    assert found == effect
    assert "eve" in why
    with pytest.raises(Refused, match="asks nothing any more"):
        desk.answer(choice)


@pytest.mark.parametrize("answer", ["", "Pick another GPU"])
async def test_nobody_is_barged_in_on_however_long_it_takes(desk: Desk, answer: str) -> None:
    desk.machine.gpu = TAKEN
    assert await desk.wait(ALERT_SECONDS + POLL_SECONDS) == []
    if answer:
        desk.answer(answer)
    assert await desk.wait(20 * ALERT_SECONDS) == []
    assert len(desk.alerts()) == 1
    desk.others = True
    assert [effect for effect, _ in await desk.wait(POLL_SECONDS)] == ["elsewhere"]
    assert desk.alerts()[0]["effect"] == "elsewhere"


async def test_another_gpu_that_is_free_is_taken_without_asking_anybody(desk: Desk) -> None:
    desk.machine.gpu, desk.others = TAKEN, True
    assert [effect for effect, _ in await desk.step()] == ["elsewhere"]
    assert desk.alerts() == []


@pytest.mark.parametrize(("choice", "effect"), [("Continue anyway", "start"), ("Stop", "stop")])
async def test_an_answer_holds_until_what_it_led_to_is_on_record(desk: Desk, choice: str, effect: str) -> None:
    desk.machine.gpu = TAKEN
    await desk.wait(ALERT_SECONDS + POLL_SECONDS)
    desk.answer(choice)
    desk.crashes = True
    assert [found for found, _ in await desk.wait(POLL_SECONDS)] == [effect]
    desk.begin()
    desk.crashes = False
    assert [found for found, _ in await desk.wait(POLL_SECONDS)] == [effect]
    (alert,) = desk.alerts()
    assert (alert["answer"], alert["effect"]) == (choice, effect)


@pytest.mark.parametrize("given_away", [False, True])
async def test_who_said_stop_is_obeyed_though_the_gpu_is_free_or_gone(desk: Desk, given_away: bool) -> None:
    desk.machine.gpu = TAKEN
    await desk.wait(ALERT_SECONDS + POLL_SECONDS)
    desk.answer("Stop")
    desk.machine.gpu = FREE
    if given_away:
        with desk.book.ledger.write() as connection:
            leases.release(connection, [desk.token])
    assert await desk.wait(POLL_SECONDS) == [("stop", "stopped by a person")]


async def test_an_answer_that_is_not_offered_is_refused(desk: Desk) -> None:
    desk.machine.gpu = TAKEN
    await desk.wait(ALERT_SECONDS + POLL_SECONDS)
    with pytest.raises(Refused, match="choose one of 'Continue anyway'"):
        desk.answer("whatever")
    assert desk.alerts()[0]["answer"] is None


@pytest.mark.parametrize("fault", ["gone", "unreachable"])
async def test_a_gpu_that_cannot_be_seen_is_not_free(desk: Desk, fault: str) -> None:
    if fault == "gone":
        desk.machine.gpu = None
    else:
        desk.machine.problem = "no answer within 10 s"
    assert await desk.step() == []
    desk.machine.gpu, desk.machine.problem = FREE, ""
    assert await desk.wait(POLL_SECONDS) == [("start", "")]


async def test_an_attempt_whose_lease_is_gone_is_placed_anew(desk: Desk) -> None:
    with desk.book.ledger.write() as connection:
        leases.release(connection, [desk.token])
    assert await desk.step() == [("elsewhere", "its GPUs were given to others")]
