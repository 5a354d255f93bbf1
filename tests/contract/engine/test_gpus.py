"""Experiments on the GPUs of this machine: the real binding on a fake driver, real jobs, the real ledger."""

import asyncio
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until
from driver import MISMATCH, Driver, gpus

from prefect_campaign.launch.gpus.inventory import GpuReader
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import gpu_numbers
from prefect_campaign.ledger import tables as t

SEES = """echo "$CAMPAIGN_EXP_ID $CUDA_VISIBLE_DEVICES" >>seen\n"""
WAITS = """until [ -e go ]; do sleep 0.02; done\n"""


def gpu_campaign(folder: Path, script: str, *, count: int = 1, points: int = 3, **changes: Any) -> Any:
    policy = {"max_parallel": None, **changes.pop("policy", {})}
    resources = {"gpus": count, **changes.pop("resources", {})}
    return campaign(folder, script, points=range(points), policy=policy, resources=resources, **changes)


def seen(folder: Path) -> dict[str, list[str]]:
    """exp_id -> the GPUs that its job saw."""
    path = folder / "seen"
    lines = path.read_text().splitlines() if path.exists() else []
    return {exp_id: value.split(",") for exp_id, _, value in (line.partition(" ") for line in lines)}


async def test_each_experiment_sees_the_gpu_that_is_leased_for_it(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    lab = Lab(gpu_campaign(tmp_path, SEES + WAITS + REPORT))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(seen(tmp_path)) == 2)
        leases = lab.rows(t.leases)
        assert sorted(r["device"] for r in leases) == sorted(driver.uuids)
        assert sorted(one for (one,) in seen(tmp_path).values()) == sorted(driver.uuids)
        assert "GPU" in dispatcher.waits
        await until(lambda: lab.rows(t.campaigns)[0]["waits"] == dispatcher.waits)  # for `campaign status`
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 3
    assert {v.exp_id: [v.gpu] for v in lab.views} == seen(tmp_path)
    lab.settled()


async def test_experiments_share_a_gpu_if_their_memory_fits(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))  # 24576 MiB: 10000 + 12000 fit, a third 12000 does not
    lab = Lab(
        gpu_campaign(tmp_path, SEES + WAITS + REPORT, resources={"vram_mb": 10000}, policy={"gpus": {"share": True}})
    )
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(seen(tmp_path)) == 2)
        assert [(r["vram_mb"], r["shared"]) for r in lab.rows(t.leases)] == [(10000, 1)] * 2
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 3
    lab.settled()


async def test_an_experiment_without_gpus_sees_none(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = await Lab(gpu_campaign(tmp_path, SEES + REPORT, count=0, points=1)).run()
    assert list(seen(tmp_path).values()) == [[""]]
    assert lab.states == ["done"]


@pytest.mark.parametrize(
    ("count", "policy", "why"),
    [
        (3, {}, "never run"),
        (2, {"reserve": [0]}, "never run"),
        (1, {"keep_free": 2}, "never run"),
        (1, {"avoid": ["*RTX*"]}, "never run"),
        (1, {"reserve": ["GPU-typo"]}, f"no GPU and no host here; hosts are named {host_name()}"),
    ],
)
async def test_what_no_host_can_run_is_held_with_the_reason(
    tmp_path: Path, home: Any, driver: Driver, count: int, policy: dict[str, Any], why: str
) -> None:
    driver.set(gpus(2))
    lab = await Lab(gpu_campaign(tmp_path, REPORT, count=count, points=1, policy={"gpus": policy})).run()
    assert lab.states == ["on_hold"]
    assert why in lab.only.reason
    assert lab.ran == []


@pytest.mark.parametrize(("by", "number"), [("campaign", 1), ("campaign", 2), ("host", 1)])
async def test_a_gpu_reserved_by_its_number_stays_so_when_one_before_it_vanishes(
    tmp_path: Path, home: Any, driver: Driver, by: str, number: int
) -> None:
    driver.set(gpus(3))
    first, *others = driver.uuids
    kept = others.pop(number - 1)
    policy = {"gpus": {"reserve": [number]}} if by == "campaign" else {}
    lab = Lab(gpu_campaign(tmp_path, SEES + WAITS + REPORT, points=4, policy=policy))
    async with lab.open(LocalLauncher(reserve=[str(number)] if by == "host" else [])) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(seen(tmp_path)) == 2)
        driver.vanish(first)
        await until(lambda: any("vanished" in g.problem for v in dispatcher._hosts.views for g in v.gpus))
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 4
    used = {one for (one,) in seen(tmp_path).values()}
    assert kept not in used
    assert used <= {first, *others}


@pytest.mark.parametrize("by", ["campaign", "host"])
async def test_a_number_means_the_same_gpu_after_one_has_vanished_and_a_restart(
    tmp_path: Path, home: Any, driver: Driver, by: str
) -> None:
    driver.set(gpus(3))
    first, kept, other = driver.uuids
    policy = {"gpus": {"reserve": [1]}} if by == "campaign" else {}
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=1, policy=policy))
    reserve = ["1"] if by == "host" else []
    async with lab.open(LocalLauncher(reserve=reserve)) as dispatcher:
        await dispatcher.adopt()
    driver.vanish(first)
    reader = GpuReader()  # as a new process has it: it never saw the first one
    try:
        await lab.run(LocalLauncher(reserve=reserve, gpus=reader))
        (view,) = await numbered_launcher(lab, LocalLauncher(reserve=reserve, gpus=reader)).look()
    finally:
        reader.close()
    assert lab.states == ["done"]
    assert list(seen(tmp_path).values()) == [[other]]
    (gone,) = (gpu for gpu in view.gpus if gpu.uuid == first)
    assert f"campaign gpus --forget {first}" in gone.problem
    assert [(gpu.uuid, gpu.index, gpu.named) for gpu in view.gpus[:2]] == [(kept, 0, 1), (other, 1, 2)]


async def test_what_the_environment_shows_is_counted_as_things_are_at_the_start(
    tmp_path: Path, home: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other allocations of the machine have shown before; and it stays so while this process runs."""
    driver.set(gpus(3))
    first, second, _ = driver.uuids
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT))
    await numbered_launcher(lab, LocalLauncher()).look()
    driver.vanish(first)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    reader = GpuReader()
    try:
        launcher = numbered_launcher(lab, LocalLauncher(gpus=reader))
        for _ in range(2):
            (view,) = await launcher.look()
            assert [gpu.uuid for gpu in view.gpus if not gpu.problem] == [second]
        driver.vanish(second)
        (view,) = await launcher.look()
        assert [gpu.uuid for gpu in view.gpus if not gpu.problem] == []
    finally:
        reader.close()


def numbered_launcher(lab: Lab, launcher: LocalLauncher) -> LocalLauncher:
    launcher.number_by(Numbers(partial(gpu_numbers.keep, lab.setting.ledger)))
    return launcher


async def test_a_lost_gpu_is_left_out_and_the_others_work(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    driver.lose(driver.uuids[0])
    lab = await Lab(gpu_campaign(tmp_path, SEES + REPORT)).run()
    assert lab.states == ["done"] * 3
    assert list(seen(tmp_path).values()) == [[driver.uuids[1]]] * 3


async def test_a_gpu_that_somebody_computes_on_is_left_alone(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    lab = await Lab(gpu_campaign(tmp_path, SEES + REPORT)).run()
    assert lab.states == ["done"] * 3
    assert list(seen(tmp_path).values()) == [[driver.uuids[1]]] * 3
    driver.stop(os.getpid())


async def test_a_gpu_that_becomes_free_is_used(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=20000)
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=1))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dispatcher.waits)
        assert lab.states == ["ready"]
        driver.stop(os.getpid())
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]


async def test_killed_before_the_look_at_its_gpu_starts_once(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=1))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        dispatcher._record([], {})  # the intent and the lease are durable, and then it dies
    assert [r["state"] for r in lab.rows(t.attempts)] == ["launching"]
    assert len(lab.rows(t.leases)) == 1
    await lab.run()
    assert lab.states == ["done"]
    assert len(lab.ran) == 1
    lab.settled()


async def test_an_attempt_on_a_busy_gpu_moves_to_one_that_becomes_free(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(2))
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=2, resources={"vram_mb": 4000}))
    await lab.run()
    # The second was placed beside the stranger, as the memory fits there; it did not start, and went elsewhere.
    assert lab.states == ["done"] * 2
    assert list(seen(tmp_path).values()) == [[driver.uuids[1]]] * 2


async def test_the_only_attempt_moves_to_a_gpu_that_becomes_free(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        driver.run(driver.uuids[0], pid=os.getpid(), used_mb=500)
        driver.run(driver.uuids[1], pid=stranger.pid, used_mb=500)
        lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=1, resources={"vram_mb": 4000}))
        async with lab.open() as dispatcher:
            run = asyncio.create_task(dispatcher.run())
            await until(lambda: lab.rows(t.leases) and dispatcher._starter._preflight._waiting)
            driver.stop(stranger.pid)
            await asyncio.wait_for(run, 60)
    finally:
        stranger.kill()
        stranger.wait()
    assert lab.states == ["done"]
    assert list(seen(tmp_path).values()) == [[driver.uuids[1]]]


async def test_a_driver_that_fails_keeps_nobody_from_the_processor(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    driver.fail(MISMATCH)
    lab = await Lab(gpu_campaign(tmp_path, REPORT, count=0, points=1)).run()
    assert lab.states == ["done"]


async def test_experiments_for_gpus_wait_until_the_driver_is_mended(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    driver.fail(MISMATCH)
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=1))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: "differ in version" in dispatcher.waits)
        assert lab.states == ["ready"]
        driver.heal()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]


async def test_ticks_alone_bring_experiments_to_their_gpus(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=2))
    for _ in range(40):
        async with lab.open() as dispatcher:
            await dispatcher.adopt()
            await dispatcher.tick()
        if lab.states == ["done"] * 2:
            break
        await asyncio.sleep(0.1)
    assert lab.states == ["done"] * 2
    assert len(lab.ran) == 2
    lab.settled()


async def test_a_gpu_at_work_that_shows_no_process_is_not_chosen_again_and_again(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(2))
    driver.change(driver.uuids[0], utilisation=97)
    lab = Lab(gpu_campaign(tmp_path, SEES + REPORT, points=2, resources={"vram_mb": 4000}))
    await lab.run()
    assert lab.states == ["done"] * 2
    assert list(seen(tmp_path).values()) == [[driver.uuids[1]]] * 2
    assert max(r["attempt"] for r in lab.rows(t.attempts)) <= 2
