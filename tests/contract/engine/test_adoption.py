"""One dispatcher at a time, and whatever it leaves behind is taken over: nothing twice, nothing lost."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted, tick_until, until

from prefect_campaign.engine import hold as module
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import batches
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Fenced, Refused, Transient

GATED = """while [ ! -e "{folder}/go" ]; do sleep 0.02; done\n"""


def gated(folder: Path, **changes):
    """Jobs that wait for the file ``go``."""
    return campaign(folder, GATED.format(folder=folder) + REPORT, **changes)


async def test_a_second_dispatcher_is_refused_while_the_first_lives(tmp_path: Path, monkeypatch) -> None:
    lab = Lab(campaign(tmp_path, REPORT))
    async with lab.open():
        other = psutil.Process(os.getppid())
        monkeypatch.setattr(module, "own_identity", lambda: f"elsewhere:{other.pid}:{other.create_time():.2f}")
        with pytest.raises(Transient, match="another dispatcher is at work"):
            async with lab.open():
                pytest.fail("two dispatchers at once")
    async with lab.open():
        pass
    assert lab.rows(t.campaigns)[0]["owner"] is None


async def test_the_lease_of_a_dead_process_is_taken(tmp_path: Path, monkeypatch) -> None:
    import socket

    lab = Lab(campaign(tmp_path, REPORT))
    with monkeypatch.context() as patch:
        patch.setattr(module, "own_identity", lambda: f"{socket.gethostname()}:{2**22 + 1}:1.00")
        dead = lab.open()
        await dead.__aenter__()
    await lab.run()
    assert lab.states == ["done"]


async def test_a_dispatcher_that_was_fenced_off_changes_nothing(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3], policy={"max_parallel": 1}))
    async with lab.open() as old:
        await old.adopt()
        await old.tick()
        async with lab.open() as new:
            await new.adopt()
            before = lab.dump()
            (tmp_path / "go").touch()
            with pytest.raises(Fenced):
                await tick_until(old, lambda: False)
            assert lab.dump() == before
            await asyncio.wait_for(new.run(), 20)
    assert lab.states == ["done"] * 3
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)


async def test_running_jobs_are_adopted_by_the_next_dispatcher(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3]))
    await interrupted(lab, lambda: len(lab.ran) == 2 and "launching" not in lab.states)
    assert sorted(lab.states) == ["ready", "running", "running"]
    (tmp_path / "go").touch()
    await lab.run()
    lab.settled()
    assert [(v.state, v.attempt) for v in lab.views] == [("done", 1)] * 3
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)


async def test_jobs_that_ended_while_nobody_watched_are_recorded(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2]))
    await interrupted(lab, lambda: len(lab.ran) == 2)
    (tmp_path / "go").touch()
    await until(lambda: len(list((lab.setting.home.path).rglob("status.json"))) == 2)
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert lab.states == ["done", "done"]  # by a single tick
    assert len(lab.ran) == 2


async def test_a_job_that_died_while_nobody_watched_is_lost_and_tried_again(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path))
    await interrupted(lab, lambda: len(lab.ran) == 1 and lab.only.job_id)
    for process in [psutil.Process(int(lab.only.job_id)), *psutil.Process(int(lab.only.job_id)).children(True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    (tmp_path / "go").touch()
    await lab.run()
    assert [r["state"] for r in lab.rows(t.attempts)] == ["lost", "done"]
    lab.settled()


async def test_what_was_lost_while_nobody_watched_uses_no_budget_from_then_on(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2], policy={"max_parallel": 1, "budget": {"hours": 5}}))
    await interrupted(lab, lambda: len(lab.ran) == 1 and lab.views[0].job_id)
    view = lab.views[0]
    for process in [psutil.Process(int(view.job_id)), *psutil.Process(int(view.job_id)).children(True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    clock = lab.setting.ledger.clock
    lab.setting.ledger.clock = lambda: clock() + 36_000
    (tmp_path / "go").touch()
    async with lab.open() as dispatcher:
        await asyncio.wait_for(dispatcher.run(), 60)
        assert dispatcher._batch.hours == pytest.approx(hours_used(lab), abs=1e-6)
    assert hours_used(lab) < 1
    assert lab.states == ["done", "done"]


async def test_those_that_end_without_a_word_use_budget_before_and_after_a_restart(tmp_path: Path) -> None:
    dies = 'sleep 0.3\nrm "$CAMPAIGN_RUN_DIR/status.json"\nkill -9 $PPID $$\n'
    policy = {"max_parallel": 1, "pilot_retries": 0, "budget": {"hours": 1e-5}}
    lab = Lab(campaign(tmp_path, dies, points=range(3), policy=policy))
    async with lab.open() as dispatcher:
        await asyncio.wait_for(dispatcher.run(), 60)
        assert dispatcher._batch.hours == pytest.approx(hours_used(lab), abs=1e-6)
    assert [r["state"] for r in lab.rows(t.attempts)] == ["lost"]
    assert lab.states == ["failed", "on_hold", "on_hold"]


def hours_used(lab: Lab) -> float:
    """What a dispatcher that starts now would read."""
    with Reader(lab.setting.ledger.url) as reader:
        return batches.hours_used(reader, lab.setting.row.id, 1)


class Crash(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


class CrashingLauncher(LocalLauncher):
    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.after = after

    async def submit(self, spec):
        if self.after:
            await super().submit(spec)
        raise Crash


@pytest.mark.parametrize("after", [False, True], ids=["nothing was started", "it was started"])
async def test_an_intent_without_a_job_id_is_looked_up_and_started_at_most_once(tmp_path: Path, after: bool) -> None:
    lab = Lab(campaign(tmp_path, REPORT, points=[1, 2]))
    with pytest.raises(Crash):
        await lab.run(CrashingLauncher(after=after))
    assert lab.states == ["launching", "launching"]
    assert len(lab.rows(t.leases)) == 2
    await lab.run()
    lab.settled()
    assert [(v.state, v.attempt) for v in lab.views] == [("done", 1)] * 2
    assert sorted(lab.ran) == sorted(f"{v.exp_id} a1" for v in lab.views)


async def test_what_was_read_before_counts_after_an_adoption(tmp_path: Path) -> None:
    script = f"""{REPORT}{GATED.format(folder=tmp_path)}echo '{{"late": 1}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """
    lab = Lab(campaign(tmp_path, script))
    await interrupted(lab, lambda: lab.only.metrics)
    (tmp_path / "go").touch()
    await lab.run()
    assert (lab.only.state, lab.only.objective_value, lab.only.metrics) == ("done", 0.5, {"acc": 0.5, "late": 1})


class TalkativeLauncher(LocalLauncher):
    """Its jobs have reported something by the time they count as submitted."""

    async def submit(self, spec):
        handle = await super().submit(spec)
        await until((Path(spec.run_dir) / "metrics.jsonl").exists)
        return handle


async def test_what_was_read_in_the_round_of_the_start_counts_after_an_adoption(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, REPORT + GATED.format(folder=tmp_path)))
    async with lab.open(TalkativeLauncher()) as dispatcher:
        await dispatcher.adopt()
        dispatcher._next_look = 0.0
        await dispatcher._round()  # and no other: its process is killed
        assert lab.only.metrics == {"acc": 0.5}
    (tmp_path / "go").touch()
    await lab.run()
    assert (lab.only.state, lab.only.objective_value, lab.ran) == ("done", 0.5, [f"{lab.only.exp_id} a1"])


async def test_a_loss_that_was_seen_before_is_still_not_finite_after_an_adoption(tmp_path: Path, monkeypatch) -> None:
    script = f"""[ "$CAMPAIGN_ATTEMPT" = 2 ] && {{ {REPORT.strip()}; exit; }}
echo '{{"loss": NaN}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"; sleep 60"""
    lab = Lab(campaign(tmp_path, script, command="sh job.sh --lr={x}"))
    with monkeypatch.context() as patch:
        patch.setattr("prefect_campaign.engine.watching.reason_to_stop", lambda *_: None)
        await interrupted(lab, lambda: lab.only.metrics)
    await lab.run()
    assert [r["signature"] for r in lab.rows(t.attempts)] == ["nan_loss", None]


async def test_ticking_twice_changes_nothing(tmp_path: Path) -> None:
    lab = Lab(gated(tmp_path, points=[1, 2, 3]))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        before = lab.dump()
        for _ in range(3):
            await dispatcher.tick()
        assert lab.dump() == before
    for _ in range(2):
        async with lab.open() as another:
            await another.adopt()
            await another.tick()
        assert lab.dump() == before
    (tmp_path / "go").touch()
    await lab.run()
    before = lab.dump()
    await lab.run()
    assert lab.dump() == before


async def test_who_waits_for_an_experiment_is_told_of_every_end(tmp_path: Path) -> None:
    class Fussy(LocalLauncher):
        async def submit(self, spec):
            if spec.attempt == 2:
                raise Refused("never like this")
            return await super().submit(spec)

    lab = Lab(campaign(tmp_path, "exit 1"))
    told = []
    async with lab.open(Fussy()) as dispatcher:

        async def follow() -> None:
            while True:
                told.append(await dispatcher.ends.next(lab.only.exp_id))

        following = asyncio.create_task(follow())
        await asyncio.wait_for(dispatcher.run(), 20)
        await asyncio.sleep(0)
        following.cancel()
    assert [(e.attempt, e.state) for e in told] == [(1, "queued"), (2, "failed")]
    assert "never like this" in told[-1].reason


async def test_two_campaigns_share_the_slots_of_the_machine(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (Lab(gated(f, name=f.name, points=[1, 2])) for f in folders)
    async with one.open() as first, two.open() as second:
        await first.adopt()
        await first.tick()
        await second.adopt()
        await second.tick()
        assert (one.states, two.states) == (["running"] * 2, ["ready"] * 2)
        assert "for a free slot" in second.waits
        for folder in folders:
            (folder / "go").touch()
        await asyncio.wait_for(asyncio.gather(first.run(), second.run()), 20)
    assert (one.states, two.states) == (["done"] * 2, ["done"] * 2)
