"""What attempts take of a GPU's memory is seen, kept, and what the next ones of their shape are given."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted, until
from driver import Driver, gpus

from prefect_campaign import Stage, Sweep
from prefect_campaign.decide import vram as deciding
from prefect_campaign.engine import hosts, planning
from prefect_campaign.engine.export import export
from prefect_campaign.engine.setting import register
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.states import CampaignStatus

WAITS = """echo "$$ $CAMPAIGN_EXP_ID" >>pids
until [ -e "go-$CAMPAIGN_EXP_ID" ] || [ -e go ]; do sleep 0.02; done
"""
OOM = """echo "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" >&2; exit 1\n"""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs are looked at all the time, and the peak of a job that takes a moment counts."""
    monkeypatch.setattr(hosts, "FRESH_SECONDS", 0.02)
    monkeypatch.setattr(planning, "FRESH_SECONDS", 0.02)
    monkeypatch.setattr(deciding, "LOOKS_ENOUGH", 1)
    monkeypatch.setattr(deciding, "LATE_ENOUGH", 0.0)


def seeds(folder: Path, script: str, count: int = 3, **changes: Any) -> Any:
    """Experiments of one shape, which may share GPUs."""
    policy = {"max_parallel": None, "gpus": {"share": True}, **changes.pop("policy", {})}
    resources = {"gpus": 1, **changes.pop("resources", {})}
    sweep = changes.pop("sweep", Sweep.grid(x=[1], seed=range(count)))
    return campaign(folder, script, sweep=sweep, policy=policy, resources=resources, **changes)


def jobs(folder: Path) -> dict[str, int]:
    """exp_id -> pid of its job, in order of their start."""
    path = folder / "pids"
    lines = path.read_text().splitlines() if path.exists() else []
    return {exp_id: int(pid) for pid, exp_id in map(str.split, lines)}


def given(lab: Lab) -> list[tuple[Any, ...]]:
    """Of every attempt: MiB leased, by whose word, and the most it was seen to take."""
    return [(r["vram_mb"], r["vram_source"], r["vram_peak_mb"]) for r in lab.rows(t.attempts)]


async def shown(lab: Lab, driver: Driver, pid: int, used_mb: int, *, together: int | None = None) -> None:
    """A job takes memory until that is on record, and gives it back."""
    driver.run(driver.uuids[0], pid, used_mb)
    await until(lambda: any(peak == (together or used_mb) for *_, peak in given(lab)))
    driver.stop(pid)


async def in_background(lab: Lab, meanwhile: Callable[[], Any]) -> None:
    """Drive the stage to its end while something happens."""
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        try:
            await meanwhile()
            await asyncio.wait_for(run, 60)
        finally:
            run.cancel()


async def test_the_peak_of_the_first_is_leased_for_the_others_which_then_share(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(1))  # 24576 MiB
    lab = Lab(seeds(tmp_path, WAITS + REPORT))

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        ((first, pid),) = jobs(tmp_path).items()
        await shown(lab, driver, pid, 3000)
        await shown(lab, driver, pid, 6000)
        driver.run(driver.uuids[0], pid, 5000)  # a peak is what was seen once
        assert given(lab) == [(None, "none", 6000)]
        assert len(jobs(tmp_path)) == 1
        driver.stop(pid)
        (tmp_path / f"go-{first}").touch()
        await until(lambda: len(jobs(tmp_path)) == 3)
        assert [(r["vram_mb"], r["shared"]) for r in lab.rows(t.leases)] == [(6000, 1)] * 2
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    assert lab.states == ["done"] * 3
    assert given(lab) == [(None, "none", 6000), (6000, "measured", None), (6000, "measured", None)]
    first = next(e for e in lab.rows(t.events) if e["kind"] == "vram")
    assert first["why"] == "leased a whole GPU, used 6000 MiB"
    lab.settled()


async def test_what_takes_nearly_the_whole_gpu_gets_one_of_its_own(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set([*gpus(1), *gpus(2, total_mb=8192)[1:]])
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 2, policy={"gpus": {"share": True, "avoid": [f"{host_name()}:1"]}}))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(jobs(tmp_path)) == 1)
        await shown(lab, driver, *jobs(tmp_path).values(), 22000)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 2
    assert given(lab)[1] == (None, "measured", None)


async def test_without_sharing_a_gpu_that_is_too_small_is_left_out(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set([*gpus(1), *gpus(2, total_mb=8192)[1:]])
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 3, policy={"gpus": {"share": False}, "max_parallel": 1}))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(jobs(tmp_path)) == 1)
        (lease,) = lab.rows(t.leases)
        driver.run(lease["device"], *jobs(tmp_path).values(), 7500)
        await until(lambda: given(lab)[0][2] == 7500)
        driver.stop(*jobs(tmp_path).values())
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 3
    assert [r["vram_mb"] for r in lab.rows(t.attempts)] == [None] * 3
    assert {r["device"] for r in lab.rows(t.attempts)[1:]} == {driver.uuids[0]}


async def test_running_out_of_memory_asks_for_more_next_time(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, OOM, 2, policy={"max_parallel": 1}, resources={"vram_mb": 4000}))
    await lab.run()
    assert lab.states == ["failed"] * 2
    leased = [(mb, source) for mb, source, _ in given(lab)]
    assert leased == [(4000, "user"), (6000, "user+oom"), (9000, "user+oom"), (13500, "user+oom")]
    # The same work with more memory first: nothing of the experiment was changed.
    assert [r["fix"] for r in lab.rows(t.attempts)].count("more memory of the GPU") == 2
    assert all(v.comparable for v in lab.views)


async def test_a_measured_peak_counts_more_than_the_declared_number(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 2, resources={"vram_mb": 15000}))

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        await shown(lab, driver, *jobs(tmp_path).values(), 2000)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    assert [(mb, source) for mb, source, _ in given(lab)] == [(15000, "user"), (2000, "measured")]
    hints = [e["why"] for e in lab.rows(t.events) if e["kind"] == "vram"]
    assert hints[0] == "declared 7.5 times what was used: vram_mb 2000 would do"


async def test_a_pilot_with_fewer_epochs_teaches_the_full_phase(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    spec = seeds(
        tmp_path,
        WAITS + REPORT,
        command="sh job.sh {x} {epochs} {batch}",
        args={"epochs": 100, "batch": 8},
        pilot=[Stage("only", only={"seed": 0}, args={"epochs": 1}), Stage("smaller", args={"batch": 4})],
    )
    lab = Lab(spec)

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        await shown(lab, driver, *jobs(tmp_path).values(), 5000)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    await Lab(spec, "full").run()
    assert given(lab)[1:] == [(5000, "measured", None)] * 3
    await Lab(spec, "smaller").run()
    assert given(lab)[4] == (None, "none", None)  # another batch size is another shape


async def test_a_peak_outlives_the_dispatcher_that_saw_it(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 2))

    def seen() -> bool:
        for pid in jobs(tmp_path).values():
            driver.run(driver.uuids[0], pid, 7000)
        return bool(given(lab)) and given(lab)[0][2] == 7000

    await interrupted(lab, seen)
    (pid,) = jobs(tmp_path).values()
    driver.run(driver.uuids[0], pid, 5000)
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dispatcher._vram._looks)
        driver.stop(pid)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 2
    assert given(lab) == [(None, "none", 7000), (7000, "measured", None)]


async def test_a_peak_that_nobody_watched_to_the_end_is_only_a_lower_bound(
    tmp_path: Path, home: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "LOOKS_ENOUGH", 10_000)
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 2, resources={"vram_mb": 1000}, policy={"max_parallel": 1}))

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        await shown(lab, driver, *jobs(tmp_path).values(), 400)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    assert given(lab) == [(1000, "user", 400), (1000, "user", None)]
    assert given(await Lab(lab.spec, "full").run())[2:] == [(1000, "user", None)] * 2


@pytest.mark.parametrize(("command", "expected"), [("sh job.sh {x}", "measured"), ("sh job.sh {x} --wide", "none")])
async def test_an_earlier_round_counts_if_it_ran_the_same_command(
    tmp_path: Path, home: Any, driver: Driver, command: str, expected: str
) -> None:
    driver.set(gpus(1))
    spec = seeds(tmp_path, WAITS + REPORT, 1)
    lab = Lab(spec)

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        await shown(lab, driver, *jobs(tmp_path).values(), 5000)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    lab.setting.change(status=CampaignStatus.KILLED)
    again = spec.model_copy(update={"command": command})
    register(again, new_round=True)
    await Lab(again).run()
    assert [source for _, source, _ in given(lab)] == ["none", expected]


async def test_the_report_shows_what_was_declared_leased_and_used(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, WAITS + REPORT, 2, resources={"vram_mb": 9000}))

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 2)
        for n, pid in enumerate(jobs(tmp_path).values()):
            await shown(lab, driver, pid, 2000 + n)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    export(lab.setting.ledger, lab.setting.campaign, tmp_path / "results")
    report = (tmp_path / "results" / "report.md").read_text()
    assert "| x 1 | 2 | 9000 | 9000 | user | 2001 | declared 4.5 times what was used: vram_mb 2100 would do |" in report


async def test_the_report_counts_the_hours_of_every_gpu(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    lab = Lab(seeds(tmp_path, REPORT, 2, resources={"gpus": 2}))
    await lab.run()
    with lab.setting.ledger.write() as connection:
        connection.execute(t.attempts.update().values(started_at=t.attempts.c.ended_at - 1800.0))
    export(lab.setting.ledger, lab.setting.campaign, tmp_path / "results")
    (line,) = [n for n in (tmp_path / "results" / "report.md").read_text().splitlines() if "Device hours used" in n]
    assert float(line.split(": ")[1]) == 2.0


async def test_all_processes_of_an_attempt_count_and_nobody_elses(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    helper = 'sleep 30 & echo "$!" >helper\n'
    lab = Lab(seeds(tmp_path, helper + WAITS + "kill $!\n" + REPORT, 1, resources={"gpus": 2}))

    async def meanwhile() -> None:
        await until(lambda: len(jobs(tmp_path)) == 1)
        (pid,) = jobs(tmp_path).values()
        driver.run(driver.uuids[0], pid, 1000)
        driver.run(driver.uuids[1], os.getpid(), 9000)
        driver.run(driver.uuids[1], pid, 2000)
        await shown(lab, driver, int((tmp_path / "helper").read_text()), 1500, together=2500)
        driver.stop(pid)
        (tmp_path / "go").touch()

    await in_background(lab, meanwhile)
    assert given(lab) == [(None, "none", 2500)]
