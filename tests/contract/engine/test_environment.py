"""Before its first use this machine is checked, if there is a dry run: once for each state of the code."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.environment_lab import dry_campaign, dry_runs, host_events, quick_checks, steps
from contract.engine.lab import REPORT, Lab, campaign, interrupted, until
from driver import Driver, gpus
from repository import track

from prefect_campaign.engine import check_run
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import Refused

__all__ = ["quick_checks"]


async def test_without_a_dry_run_nothing_is_checked_on_this_machine(tmp_path: Path, home: Any) -> None:
    lab = await Lab(campaign(tmp_path, REPORT)).run()
    assert lab.states == ["done"]
    assert lab.rows(t.host_checks) == []
    assert not list(home.path.rglob("_check*"))


async def test_a_dry_run_passes_once_before_anything_starts(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path, points=(1, 2, 3))
    track(tmp_path / "work")
    lab = await Lab(spec).run()
    assert lab.states == ["done"] * 3
    (line,) = dry_runs(tmp_path)
    assert line.startswith("_check-")
    (row,), (found,) = lab.rows(t.host_checks), steps(lab)
    assert (row["state"], row["host"], row["job"]) == ("ready", host_name(), None)
    assert {name: one["state"] for name, one in found.items()} == dict.fromkeys(
        ("code", "program", "GPUs", "dry run"), "passed"
    )
    assert "sh starts" in found["program"]["detail"]
    assert not {r["exp_id"] for r in lab.rows(t.attempts)} & {line.split()[0]}
    assert [e["state"] for e in host_events(lab)] == ["ready"]
    lab.settled()


async def test_a_check_is_valid_in_another_process_until_the_code_changes(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path)
    track(tmp_path / "work")
    await Lab(spec).run()
    again = Lab(spec.model_copy(update={"name": "other"}))
    await again.run()
    assert again.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    assert [e["state"] for e in host_events(again)][-1:] == ["ready"]
    (tmp_path / "work" / "new.py").write_text("x = 1\n")
    third = Lab(spec.model_copy(update={"name": "third"}))
    await third.run()
    assert third.states == ["done"]
    assert len(dry_runs(tmp_path)) == 2
    assert [r["state"] for r in third.rows(t.host_checks)] == ["ready"] * 2


async def test_code_that_changes_meanwhile_is_checked_before_the_next_start(tmp_path: Path, home: Any) -> None:
    waits = """until [ -e go ]; do sleep 0.02; done\n"""
    spec = dry_campaign(tmp_path, script=waits + REPORT, points=(1, 2), policy={"max_parallel": 1})
    track(tmp_path / "work")
    lab = Lab(spec)
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.ran)
        (tmp_path / "work" / "new.py").write_text("x = 1\n")
        await until(lambda: len(lab.rows(t.host_checks)) == 2)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 2
    assert len(dry_runs(tmp_path)) == 2
    lab.settled()


async def test_a_dry_run_that_fails_holds_everything_with_the_reason(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path, "echo 'ModuleNotFoundError: No module named torch' >&2; exit 1", points=(1, 2))
    track(tmp_path / "work")
    lab = await Lab(spec).run()
    assert lab.states == ["on_hold"] * 2
    assert lab.ran == []
    assert len(dry_runs(tmp_path)) == 1  # it is the command that does not work: once is enough
    assert "torch" in lab.views[0].reason
    assert "dry run" in lab.views[0].reason
    assert "campaign resume lab --retry-failed" in lab.views[0].reason
    lab.settled()
    # mended outside the code, and asked for again
    job = tmp_path / "work" / "job.sh"
    job.write_text(job.read_text().replace("exit 1", ":"))
    lab.reopen()
    lab.open_stage()
    await lab.run()
    assert lab.states == ["done"] * 2
    assert [e["state"] for e in host_events(lab)] == ["failed", "ready"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pyhton job.sh {x}", "pyhton is not found; PATH of jobs there is"),
        ("./nowhere/run {x}", "./nowhere/run is not there"),
        ("./job.sh {x}", "may not be executed"),
        ("sh nojob.sh {x}", "nojob.sh is not there"),
        ("./moved {x}", "needs /old/venv/bin/python, which is not there"),
        ("./broken/bin/python3 job.sh {x}", "does not start (code 1): no encodings"),
    ],
)
async def test_a_command_that_cannot_start_is_told_in_words(tmp_path: Path, home: Any, command: str, said: str) -> None:
    spec = dry_campaign(tmp_path, command=command, launcher=["ssh/any"])  # this machine need not have it
    work = tmp_path / "work"
    (work / "moved").write_text("#!/old/venv/bin/python\n")
    (work / "broken" / "bin").mkdir(parents=True)
    (work / "broken" / "bin" / "python3").write_text("#!/bin/sh\necho no encodings; exit 1\n")
    for path in (work / "moved", work / "broken" / "bin" / "python3"):
        path.chmod(0o755)
    lab = await Lab(spec).run()
    assert lab.states == ["on_hold"]
    assert said in lab.only.reason
    assert dry_runs(tmp_path) == []
    lab.settled()


async def test_what_a_dry_run_says_reaches_people_without_its_tricks(tmp_path: Path, home: Any) -> None:
    lab = await Lab(dry_campaign(tmp_path, r"printf '\033[31m\377\000evil\r\n' >&2; exit 3")).run()
    assert "dry run: exit code 3: " in lab.only.reason
    assert "evil; see /" in lab.only.reason
    assert lab.only.reason.isprintable()


async def test_a_dry_run_that_never_ends_is_ended(tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(dry_campaign(tmp_path, "exec sleep 1000"))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dry_runs(tmp_path) and lab.rows(t.leases))
        monkeypatch.setattr(check_run, "LIMIT_SECONDS", 0.0)
        await asyncio.wait_for(run, 60)
    assert lab.states == ["on_hold"]
    assert "did not end within" in lab.only.reason
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_a_killed_dry_run_is_tried_again_three_times(tmp_path: Path, home: Any) -> None:
    lab = await Lab(dry_campaign(tmp_path, "kill -9 $$; sleep 9")).run()
    assert lab.states == ["on_hold"]
    assert len(dry_runs(tmp_path)) == 4
    lab.settled()


async def test_an_interrupted_dry_run_is_found_again_and_not_started_twice(tmp_path: Path, home: Any) -> None:
    lab = Lab(dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done"))
    track(tmp_path / "work")
    await interrupted(lab, lambda: dry_runs(tmp_path))
    await interrupted(lab, lambda: True)
    assert len(lab.rows(t.leases)) == 1
    assert [r["state"] for r in lab.rows(t.host_checks)] == ["checking"]
    (tmp_path / "go").touch()
    await lab.run()
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_killed_between_the_record_and_the_start_it_starts_once(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(LocalLauncher):
        async def submit(self, spec):
            if "--dry-run" in spec.argv:
                await asyncio.Event().wait()
            return await super().submit(spec)

    lab = Lab(dry_campaign(tmp_path))
    track(tmp_path / "work")
    async with lab.open(Dies()) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.rows(t.leases))
        run.cancel()
    (before,) = lab.rows(t.host_checks)
    assert before["job"]["handle"] is None
    await lab.run()
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_two_campaigns_check_the_same_once(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done")
    track(tmp_path / "work")
    labs = [Lab(spec.model_copy(update={"name": name})) for name in ("one", "two")]
    runs = [asyncio.create_task(lab.run()) for lab in labs]
    await until(lambda: dry_runs(tmp_path))
    await asyncio.sleep(0.2)
    (tmp_path / "go").touch()
    await asyncio.wait_for(asyncio.gather(*runs), 60)
    assert [lab.states for lab in labs] == [["done"]] * 2
    assert len(dry_runs(tmp_path)) == 1


async def test_a_dead_campaigns_check_is_taken_over_with_its_job(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done")
    track(tmp_path / "work")
    await interrupted(Lab(spec), lambda: dry_runs(tmp_path))
    other = Lab(spec.model_copy(update={"name": "other"}))
    run = asyncio.create_task(other.run())
    await until(lambda: other.rows(t.host_checks)[0]["campaign_id"] == other.setting.row.id)
    (tmp_path / "go").touch()
    await asyncio.wait_for(run, 60)
    assert other.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    assert other.rows(t.leases) == []


async def test_a_dry_run_of_old_code_is_ended_and_frees_its_slot(tmp_path: Path, home: Any) -> None:
    spec = dry_campaign(tmp_path, "[ -e go ] || exec sleep 1000", policy={"max_parallel": 1})
    track(tmp_path / "work")
    await interrupted(Lab(spec), lambda: dry_runs(tmp_path))
    (tmp_path / "go").touch()
    (tmp_path / "work" / "new.py").write_text("x = 1\n")
    lab = await Lab(spec).run()
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 2
    lab.settled()


async def test_what_a_dead_campaigns_dry_run_holds_comes_back_to_one_that_checks_nothing(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await interrupted(Lab(dry_campaign(tmp_path, "exec sleep 1000")), lambda: dry_runs(tmp_path))
    monkeypatch.setattr(check_run, "LIMIT_SECONDS", 0.0)
    (tmp_path / "other").mkdir()
    lab = await Lab(campaign(tmp_path / "other", REPORT, name="other", policy={"max_parallel": 1})).run()
    assert lab.states == ["done"]
    assert lab.rows(t.leases) == []


async def test_cancelling_a_campaign_ends_its_dry_run(tmp_path: Path, home: Any) -> None:
    lab = Lab(dry_campaign(tmp_path, "exec sleep 1000"))
    await interrupted(lab, lambda: dry_runs(tmp_path))
    async with lab.open(settle=True) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.cancel_all("asked")
    lab.settled()


async def test_a_dry_run_holds_the_gpus_it_sees(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(3))
    driver.lose(driver.uuids[0])
    lab = Lab(
        dry_campaign(
            tmp_path,
            "until [ -e go ]; do sleep 0.02; done",
            resources={"gpus": 2},
            policy={"max_parallel": None},
        )
    )
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dry_runs(tmp_path))
        assert {r["device"] for r in lab.rows(t.leases)} == set(driver.uuids[1:])
        assert dry_runs(tmp_path)[0].split()[1] == ",".join(driver.uuids[1:])
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]
    lab.settled()


async def test_too_few_gpus_are_a_reason(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    driver.lose(driver.uuids[0])
    lab = await Lab(dry_campaign(tmp_path, resources={"gpus": 2}, policy={"max_parallel": None})).run()
    assert lab.states == ["on_hold"]
    assert "needs 2 GPUs on one host, and 1 of 2 can be used (1 " in lab.only.reason
    assert dry_runs(tmp_path) == []


async def test_a_tick_alone_gets_there(tmp_path: Path, home: Any) -> None:
    """The scheduled monitor: each tick is a process of its own."""
    lab = Lab(dry_campaign(tmp_path))
    track(tmp_path / "work")
    for _ in range(20):
        async with lab.open() as dispatcher:
            await dispatcher.adopt()
            await dispatcher.tick()
        if lab.states == ["done"]:
            break
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


def test_a_dry_run_needs_arguments(tmp_path: Path) -> None:
    with pytest.raises((Refused, ValueError), match="dry_run"):
        campaign(tmp_path, "", policy={"dry_run": []})
