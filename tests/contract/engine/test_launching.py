"""Launches that fail, or that may have worked: nothing is lost, nothing starts twice, nobody waits for ever."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from contract.engine.lab import REPORT, Lab, campaign, python_campaign
from contract.engine.test_healing import GPU

from prefect_campaign.engine import outcomes
from prefect_campaign.engine.outcomes import RetryRules, unlaunched
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "LAUNCH_DELAY", 0.02)


class Short(LocalLauncher):
    """A machine that is out of something when it is to start certain attempts."""

    def __init__(self, *attempts: int) -> None:
        super().__init__()
        self.attempts = attempts

    async def submit(self, spec: AttemptSpec) -> Handle:
        if not self.attempts or spec.attempt in self.attempts:
            raise Transient("no memory")
        return await super().submit(spec)


def ends(lab: Lab) -> list[tuple[str, str | None]]:
    return [(r["state"], r["signature"]) for r in lab.rows(t.attempts)]


async def test_launches_that_fail_are_no_retries(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, REPORT, policy={"pilot_retries": 0})).run(Short(1, 2, 3, 4))
    assert ends(lab) == [("failed", "launch_failed")] * 4 + [("done", None)]
    assert (lab.only.state, lab.only.attempt, lab.ran) == ("done", 5, [f"{lab.only.exp_id} a5"])
    lab.settled()


async def test_attempts_that_ran_are_counted_without_those_that_did_not(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, "exit 3", policy={"pilot_retries": 1})).run(Short(1, 3, 4))
    assert [s for _, s in ends(lab)] == ["launch_failed", "unknown", "launch_failed", "launch_failed", "unknown"]
    assert "1 retries used" in lab.only.reason
    lab.settled()


async def test_the_same_holds_after_a_person_asked_again_and_for_the_next_dispatcher(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, "exit 3", policy={"pilot_retries": 1}))
    for attempts in (4, 8):
        for _ in range(attempts // 4):
            await lab.run(Short(1, 5))
        assert (lab.only.state, len(lab.ran)) == ("failed", attempts // 2)
        assert [s for _, s in ends(lab)].count("launch_failed") == attempts // 4
        lab.reopen()
        lab.open_stage()


async def test_time_limits_launches_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(campaign(tmp_path, REPORT, policy={"retry_hours": 2.5, "pilot_retries": 0}))
    real, skew = lab.setting.ledger.clock, 0.0
    monkeypatch.setattr(lab.setting.ledger, "clock", lambda: real() + skew)

    class Slow(LocalLauncher):
        async def submit(self, spec: AttemptSpec) -> Handle:
            nonlocal skew
            skew += 3600
            raise Transient("no memory")

    await lab.run(Slow())
    assert (lab.only.state, lab.only.signature, lab.ran) == ("failed", "launch_failed", [])
    assert ends(lab) == [("failed", "launch_failed")] * 3
    assert lab.only.reason == "no memory (over policy.retry_hours (2.5))"
    lab.settled()


async def test_a_retry_that_is_due_already_starts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "LAUNCH_DELAY", 0.0)
    lab = Lab(campaign(tmp_path, REPORT))
    async with lab.open(Short(1)) as dispatcher:
        await dispatcher.adopt()
        await dispatcher._round()
        assert lab.states == ["queued"]
        assert dispatcher._until_next() == 0.0
        await asyncio.wait_for(dispatcher.run(), 20)
    assert lab.states == ["done"]


async def test_the_back_off_doubles_up_to_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "LAUNCH_DELAY", 1.0)
    spec = AttemptSpec("e", 1, "t", ("true",), {}, "/", "/r/e/a1", {}, 0)

    def delay(failures: int) -> float:
        rules = RetryRules(0, 0, 1000.0, 1000.0, "t2", "/r/e/a2", launch_failures=failures)
        outcome = unlaunched(campaign(tmp_path, ""), spec, Transient("full"), rules, now=1000.0)
        return outcome.move.values["retry_at"] - 1000.0

    assert [delay(n) for n in (0, 1, 2, 8, 9, 5000)] == [1, 2, 4, 256, 300, 300]


async def test_the_back_off_starts_over_after_a_launch_that_worked(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, "exit 3", policy={"pilot_retries": 1, "retry_delay_seconds": 0.001}))
    delays: list[float] = []
    async with lab.open(Short(1, 2, 3, 5)) as dispatcher:
        real = dispatcher._starter.write_unlaunched

        def noted() -> list:
            written = real()
            delays.extend(outcome.move.values["retry_at"] - outcome.ended_at for _, outcome in written)
            return written

        dispatcher._starter.write_unlaunched = noted
        await asyncio.wait_for(dispatcher.run(), 20)
    assert delays == pytest.approx([0.02, 0.04, 0.08, 0.02], rel=1e-2)


async def test_a_fix_is_kept_when_its_launch_fails(tmp_path: Path) -> None:
    lab = Lab(python_campaign(tmp_path, GPU, "--batch-size {x} --log {run_dir}/log", points=[32]))
    await lab.run(Short(2, 3))
    assert [s for _, s in ends(lab)] == ["cuda_oom", "launch_failed", "launch_failed", None]
    assert (lab.only.state, lab.only.attempt, lab.only.objective_value) == ("done", 4, 16.0)
    assert (lab.only.changes, lab.only.comparable) == (("batch_size 32 -> 16",), False)
    specs = [r["spec"] for r in lab.rows(t.attempts)]
    for number, one in enumerate(specs, 1):
        assert (one["attempt"], Path(one["run_dir"]).name) == (number, f"a{number}")
        assert one["argv"][-1] == f"{one['run_dir']}/log"
    assert len({one["token"] for one in specs}) == 4


async def test_a_refused_launch_is_final_at_once(tmp_path: Path) -> None:
    class Fussy(LocalLauncher):
        async def submit(self, spec: AttemptSpec) -> Handle:
            raise Refused("never like this")

    lab = await Lab(campaign(tmp_path, REPORT)).run(Fussy())
    assert (lab.only.state, lab.only.reason, ends(lab)) == ("failed", "never like this", [("failed", "refused")])
    lab.settled()


class Vague(LocalLauncher):
    """The first submission brings no answer; `find` is blind for a while."""

    def __init__(self, *, started: bool, blind: int = 0, broken: int = 0) -> None:
        super().__init__()
        self.started = started
        self.blind = blind
        self.broken = broken
        self.submitted: list[str] = []

    async def submit(self, spec: AttemptSpec) -> Handle:
        self.submitted.append(spec.token)
        if len(self.submitted) > 1:
            return await super().submit(spec)
        if self.started:
            await super().submit(spec)
            self.close()  # as if nobody knew
        raise Unknown("no answer")

    async def find(self, spec: AttemptSpec) -> Handle | None:
        if self.broken:
            self.broken -= 1
            raise Transient("out of reach")
        if self.blind:
            self.blind -= 1
            return None
        return await super().find(spec)


async def test_a_submission_that_may_have_happened_is_looked_up_and_never_forgotten(tmp_path: Path) -> None:
    lab, launcher = Lab(campaign(tmp_path, REPORT)), Vague(started=False)
    await lab.run(launcher)
    assert (lab.states, lab.ran) == (["done"], [f"{lab.only.exp_id} a1"])
    assert len(lab.rows(t.attempts)) == 1
    assert launcher.submitted == [lab.rows(t.attempts)[0]["token"]] * 2
    lab.settled()


@pytest.mark.parametrize("blind", [0, 1])
async def test_a_submission_that_did_happen_is_adopted(tmp_path: Path, blind: int) -> None:
    lab, launcher = Lab(campaign(tmp_path, f"sleep 0.1\n{REPORT}")), Vague(started=True, blind=blind)
    await lab.run(launcher)
    assert (lab.states, lab.ran, len(launcher.submitted)) == (["done"], [f"{lab.only.exp_id} a1"], 1)


async def test_nothing_is_submitted_again_while_the_launcher_cannot_say(tmp_path: Path, caplog) -> None:
    lab, launcher = Lab(campaign(tmp_path, REPORT, points=[1, 2])), Vague(started=True, broken=5)
    with caplog.at_level(logging.WARNING):
        await lab.run(launcher)
    assert lab.states == ["done", "done"]
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)
    assert len(launcher.submitted) == len(set(launcher.submitted)) == 2
    assert len([r for r in caplog.records if "may have been started" in r.message]) == 1


async def test_it_holds_its_device_until_it_is_known(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, REPORT, points=[1, 2], policy={"max_parallel": 1}))
    async with lab.open(Vague(started=False, broken=10**6)) as dispatcher:
        await dispatcher.adopt()
        for _ in range(3):
            await dispatcher.tick()
            assert lab.states == ["launching", "ready"]
        assert len(lab.rows(t.leases)) == 1
    await lab.run()
    assert lab.states == ["done", "done"]
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)


async def test_what_a_host_in_trouble_refuses_is_tried_again(tmp_path: Path) -> None:
    class LockedOut(LocalLauncher):
        """Lets nobody in at first, and says so when it is looked at."""

        refusals = 0

        async def submit(self, spec: AttemptSpec) -> Handle:
            if self.refusals < 3:
                self.refusals += 1
                raise Refused("the key is not let in")
            return await super().submit(spec)

        async def look(self) -> list[HostView]:
            (view,) = await super().look()
            return [replace(view, problem="the key is not let in" if self.refusals else "")]

    lab = await Lab(campaign(tmp_path, REPORT)).run(LockedOut())
    assert lab.states == ["done"]
    assert {s for _, s in ends(lab)} == {"launch_failed", None}
    lab.settled()


async def test_an_attempt_that_cannot_be_looked_up_is_neither_failed_nor_started_again(tmp_path: Path) -> None:
    class Closed(LocalLauncher):
        """Does not even let us look for a while."""

        looks = 0

        async def find(self, spec: AttemptSpec) -> Handle | None:
            self.looks += 1
            if self.looks < 4:
                raise Refused("the key is not let in")
            return await super().find(spec)

    lab = Lab(campaign(tmp_path, REPORT))
    async with lab.open() as killed:
        await killed.adopt()
        killed._record([], {})  # an intent on record, and then it dies
    launcher = Closed()
    await lab.run(launcher)
    assert launcher.looks >= 4
    assert (lab.states, len(lab.ran), ends(lab)) == (["done"], 1, [("done", None)])
    lab.settled()
