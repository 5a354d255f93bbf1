"""Experiments that a scheduler runs: handed over together, waiting on record, running when that is seen."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from contract.engine.lab import REPORT, tick_until, until
from contract.engine.waiting_queue import HOST, WaitingQueue, queued, specs_of
from sqlalchemy import update

from prefect_campaign import Sweep
from prefect_campaign.engine import away
from prefect_campaign.heal.fixes import MORE_TIME
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.records import Observation


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.05)


async def test_all_are_handed_over_together_and_ask_for_what_they_need(tmp_path: Path) -> None:
    wanted = {"gpus": 2, "cpus": 4, "memory_mb": 8000, "shm_mb": 64, "disk_mb": 10, "expected_minutes": 90}
    lab, queue = queued(tmp_path, 5, resources=wanted), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
    assert [len(batch) for batch in queue.batches] == [5]
    spec = queue.batches[0][0]
    assert (spec.gpu_count, spec.cpus, spec.memory_mb, spec.shm_mb, spec.disk_mb) == (2, 4, 8000, 64, 10)
    assert (spec.host, spec.gpus, spec.vram_mb) == (HOST, (), None)
    assert spec.wall_minutes == 180  # 1.5 x 1.5 h, in whole hours


async def test_processors_that_are_not_named_are_left_to_the_launcher(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
    assert queue.batches[0][0].cpus is None


async def test_a_job_that_waits_does_not_run_on_record_and_runs_once_it_is_seen_to(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 2, script=f"sleep 0.3\n{REPORT}"), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        dispatcher.ends.on_end = lab.ends.append
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: {v.reason for v in lab.views} == {"waits for resources"})
        assert lab.states == ["launching"] * 2
        assert [v.started_at for v in lab.views] == [None] * 2
        assert {v.job_id for v in lab.views} == {"1", "2"}
        await queue.let_run(queue.batches[0][0])
        await until(lambda: sorted(lab.states) == ["launching", "running"])
        running = next(v for v in lab.views if v.state == "running")
        assert (running.host, running.reason) == ("n1", "runs on n1")
        assert running.started_at is not None
        await queue.let_run(queue.batches[0][1])
        await asyncio.wait_for(driving, 20)
    lab.settled()
    assert lab.states == ["done"] * 2
    assert len(lab.ran) == 2


async def test_a_job_that_could_not_work_before_is_not_called_silent_once_it_goes_on(tmp_path: Path) -> None:
    class Counting(WaitingQueue):
        looks = 0

        async def observe(self, handles):
            self.looks += 1
            return await super().observe(handles)

    began = time.time() - 9 * 3600
    lab, queue = queued(tmp_path, 2), Counting()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        suspended, hangs = [spec.exp_id for spec in queue.batches[0]]
        queue.answers = dict.fromkeys((suspended, hangs), Observation("running", started_at=began, detail="suspended"))
        await tick_until(dispatcher, lambda: lab.states == ["running"] * 2)
    with lab.setting.ledger.write() as connection:  # time went by
        connection.execute(update(t.attempts).values(intent_at=began, started_at=began))
    silent = Observation("running", started_at=began, quiet_since=time.time() - 3600)
    queue.answers[hangs] = silent
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: bool(lab.rows(t.alerts)))
        queue.answers[suspended] = silent
        enough = queue.looks + 4
        await tick_until(dispatcher, lambda: queue.looks >= enough)
        assert [(a["exp_id"], a["syndrome"]) for a in lab.rows(t.alerts)] == [(hangs, "hang")]


async def test_what_a_killed_dispatcher_handed_over_is_found_and_not_handed_over_again(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
    # Its answer came too late to be written down.
    with lab.setting.ledger.write() as connection:
        connection.execute(t.attempts.update().values(handle=None, job_id=None))
    after = WaitingQueue(accepted=queue.accepted)
    async with lab.open(Fleet({HOST: after})) as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: {v.job_id for v in lab.views} == {"1", "2", "3"})
        await after.let_run(*specs_of(queue))
        await asyncio.wait_for(driving, 20)
    assert after.batches == []
    assert lab.states == ["done"] * 3
    assert len(lab.ran) == 3


async def test_intents_of_which_nothing_came_are_handed_over_together_after_a_crash(tmp_path: Path) -> None:
    class CrashError(Exception):
        pass

    class Crashing(WaitingQueue):
        async def submit_all(self, specs):
            raise CrashError

    lab = queued(tmp_path, 4)
    with pytest.raises(CrashError):
        await lab.run(Fleet({HOST: Crashing()}))
    after = WaitingQueue()
    async with lab.open(Fleet({HOST: after})) as dispatcher:
        await dispatcher.adopt()
    assert [len(batch) for batch in after.batches] == [4]
    assert all(a["attempt"] == 1 for a in lab.rows(t.attempts))


async def test_a_lost_answer_is_looked_for_and_nothing_is_submitted_twice(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path), WaitingQueue()
    queue.lost_answers, queue.down = 1, True
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: len(queue.accepted) == 3)
        await asyncio.sleep(0.2)
        assert {v.job_id for v in lab.views} == {None}
        queue.down = False
        await until(lambda: {v.job_id for v in lab.views} == {"1", "2", "3"})
        await queue.let_run(*specs_of(queue))
        await asyncio.wait_for(driving, 20)
    assert lab.states == ["done"] * 3


async def test_a_silent_scheduler_changes_nothing(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 2, script="sleep 60"), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        await queue.let_run(queue.batches[0][0])
        await tick_until(dispatcher, lambda: sorted(lab.states) == ["launching", "running"])
        queue.down = True
        before = lab.dump()
        for _ in range(10):
            await dispatcher.tick()
            await asyncio.sleep(0.06)
        after = lab.dump()
        assert after["experiments"] == before["experiments"]
        assert after["attempts"] == before["attempts"]
        queue.down = False
        await dispatcher.cancel_all("enough")
        queue.answers = {v.exp_id: Observation("gone", scheduler_state="CANCELLED") for v in lab.views}
        await tick_until(dispatcher, lambda: lab.states == ["cancelled"] * 2)


async def test_one_that_never_starts_is_on_hold_with_an_alert_until_somebody_mends_it(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        dispatcher.ends.on_end = lab.ends.append
        queue.answers[lab.only.exp_id] = Observation("pending", detail="never starts: no such QOS", stuck=True)
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.states == ["on_hold"])
        assert lab.only.reason == "never starts: no such QOS"
        assert [(a["syndrome"], a["severity"]) for a in lab.rows(t.alerts)] == [("stuck_in_queue", "warning")]
        queue.answers.clear()
        await until(lambda: lab.states == ["launching"])
        assert lab.only.reason == "waits for resources"
        await queue.let_run(*specs_of(queue))
        await asyncio.wait_for(driving, 20)
    assert lab.states == ["done"]


async def test_time_in_the_queue_is_neither_a_hang_nor_counted_by_the_time_limit(tmp_path: Path, monkeypatch) -> None:
    limits = {"policy": {"hang_minutes": 0.001}, "resources": {"time_minutes": 0.002}}
    lab, queue = queued(tmp_path, 1, **limits), WaitingQueue()
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.only.reason == "waits for resources")
        await asyncio.sleep(0.3)
        assert lab.states == ["launching"]
        await queue.let_run(*specs_of(queue))
        await asyncio.wait_for(driving, 20)
    assert lab.states == ["done"]


@pytest.mark.parametrize(
    ("state", "signature", "attempt_state", "next_state"),
    [
        ("TIMEOUT", "timeout", "failed", "launching"),
        ("OUT_OF_MEMORY", "host_oom", "failed", "failed"),
        ("NODE_FAIL", "node_failure", "failed", "launching"),
        ("PREEMPTED", "preempted", "failed", "launching"),
        (None, "lost", "lost", "launching"),
    ],
)
async def test_how_the_scheduler_says_that_it_ended_decides(
    tmp_path: Path, state, signature, attempt_state, next_state
) -> None:
    lab, queue = queued(tmp_path, 1), WaitingQueue()
    queue.answers[lab.only.exp_id] = Observation("gone", scheduler_state=state)
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        await tick_until(dispatcher, lambda: lab.rows(t.attempts)[0]["state"] == attempt_state)
        assert lab.rows(t.attempts)[0]["signature"] == signature
        queue.answers.clear()
        await tick_until(dispatcher, lambda: lab.states == [next_state])


async def test_an_estimated_time_limit_that_was_too_short_is_raised(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1, resources={"expected_minutes": 30}), WaitingQueue()
    queue.answers[lab.only.exp_id] = Observation("gone", scheduler_state="TIMEOUT", started_at=1.0)
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states == ["failed"])
    assert [spec.wall_minutes for spec in specs_of(queue)] == [60, 720, 1440]
    assert {a["fix"] for a in lab.rows(t.attempts)[:-1]} == {MORE_TIME}
    assert lab.only.comparable


async def test_the_users_own_time_limit_is_final(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1, resources={"time_minutes": 30}), WaitingQueue()
    queue.answers[lab.only.exp_id] = Observation("gone", scheduler_state="TIMEOUT", started_at=1.0)
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states == ["failed"])
    assert [spec.wall_minutes for spec in specs_of(queue)] == [30]


async def test_a_scheduler_is_asked_for_as_much_time_as_others_took(tmp_path: Path) -> None:
    """At least an hour; 12 hours where nobody knows."""
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done\n{REPORT}"
    lab = queued(tmp_path, 2, script=script, sweep=Sweep.grid(x=[0], seed=[0, 1]))
    queue = WaitingQueue(slots=1)
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        await queue.let_run(specs_of(queue)[0])
        await tick_until(dispatcher, lambda: "running" in lab.states)
        (tmp_path / "go").touch()
        await tick_until(dispatcher, lambda: len(specs_of(queue)) == 2)
    assert [spec.wall_minutes for spec in specs_of(queue)] == [720, 60]


async def test_interruptions_by_the_scheduler_use_up_no_retries(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1, policy={"pilot_retries": 1}), WaitingQueue()
    queue.answers[lab.only.exp_id] = Observation("gone", scheduler_state="PREEMPTED")
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: len(lab.rows(t.attempts)) >= 5)
        queue.answers.clear()
        await queue.let_run(specs_of(queue)[-1])
        await tick_until(dispatcher, lambda: lab.states == ["done"])
    assert {a["signature"] for a in lab.rows(t.attempts)[:-1]} == {"preempted"}


async def test_a_queue_takes_what_finds_no_place_on_machines(tmp_path: Path) -> None:
    class Small(LocalLauncher):
        async def look(self):
            (view,) = await super().look()
            return [replace(view, slots=1)]

    lab, queue = queued(tmp_path, 3, script=f"sleep 0.2\n{REPORT}"), WaitingQueue()
    async with lab.open(Fleet({HOST: queue, host_name(): Small(1)})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
    assert sorted(a["launcher"] for a in lab.rows(t.attempts)) == ["local", "waiting", "waiting"]


async def test_no_more_jobs_than_it_takes(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 5, policy={"max_parallel": None}, resources={"gpus": 1}), WaitingQueue(slots=2)
    async with lab.open(Fleet({HOST: queue})) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        assert [len(batch) for batch in queue.batches] == [2]
        assert "lab: has its 2 jobs" in dispatcher.waits


async def test_what_waits_is_seen_by_single_ticks_of_new_dispatchers(tmp_path: Path) -> None:
    lab, queue = queued(tmp_path, 1, script=f"sleep 0.5\n{REPORT}"), WaitingQueue()

    async def tick() -> None:
        async with lab.open(Fleet({HOST: queue})) as dispatcher:
            await dispatcher.adopt()
            await dispatcher.tick()

    await tick()
    await tick()
    assert (lab.states, lab.only.reason) == (["launching"], "waits for resources")
    await queue.let_run(*specs_of(queue))
    await tick()
    assert lab.states == ["running"]
