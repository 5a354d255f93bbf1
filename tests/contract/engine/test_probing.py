"""The first of a shape runs a probe, which is nobody's attempt, and all of the shape go by what it showed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, interrupted, until
from contract.engine.test_reclaim import as_a_process_that_dies
from contract.engine.test_vram import WAITS, eager, given, jobs, seeds
from driver import Driver, gpus

from prefect_campaign import Sweep
from prefect_campaign.engine import probing, reclaim
from prefect_campaign.ledger import tables as t

__all__ = ["eager"]

PROBE = ["--dry-run", "--samples", "2"]
DRY = """case "$*" in *--dry-run*)
    echo "$$ $CAMPAIGN_CHECKPOINT_DIR $WANDB_MODE $*" >>probes
    until [ -e probed ]; do sleep 0.02; done
    exit $(cat probed);;
esac
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(probing, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(reclaim, "EVERY_SECONDS", 0.1)


def probed_seeds(folder: Path, script: str = DRY + WAITS + REPORT, count: int = 3, **changes: Any) -> Any:
    resources = {"probe": PROBE, **changes.pop("resources", {})}
    return seeds(folder, script, count, resources=resources, **changes)


def begun(folder: Path) -> list[list[str]]:
    """Of every probe: pid, checkpoint folder, mode of W&B, and its arguments."""
    path = folder / "probes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def finish(folder: Path, code: int = 0) -> None:
    new = folder / "probed.new"
    new.write_text(str(code))
    new.rename(folder / "probed")


def events(lab: Lab, kind: str) -> list[str]:
    return [e["why"] for e in lab.rows(t.events) if e["kind"] == kind]


async def test_its_peak_is_leased_for_all_of_the_shape(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(probed_seeds(tmp_path))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: begun(tmp_path))
        ((pid, checkpoints, wandb, *argv),) = begun(tmp_path)
        assert argv == ["1", *PROBE]
        assert wandb == "disabled"
        assert [r["vram_mb"] for r in lab.rows(t.leases)] == [None]
        assert lab.states == ["ready"] * 3
        driver.run(driver.uuids[0], int(pid), 9000)
        await until(lambda: events(lab, "probe_seen") == ["9000 MiB"])
        driver.stop(int(pid))
        finish(tmp_path)
        await until(lambda: len(jobs(tmp_path)) == 2)  # beside two of 9000 there is no room for a third
        assert "probe" not in dispatcher.waits
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 3
    assert [(mb, source) for mb, source, _ in given(lab)] == [(9000, "probe")] * 3
    assert events(lab, "probed") == ["probe: 9000 MiB"]
    assert len(begun(tmp_path)) == 1
    assert "/a1" not in checkpoints
    assert checkpoints not in {str(Path(v.run_dir or "").parent / "checkpoints") for v in lab.views}
    lab.settled()


async def test_only_the_first_of_a_shape_is_probed_and_others_go_on(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(3))
    lab = Lab(probed_seeds(tmp_path, sweep=Sweep.grid(x=[1, 2], seed=[0, 1]), policy={"max_parallel": 3}))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(begun(tmp_path)) == 2)
        assert sorted(argv[3] for argv in begun(tmp_path)) == ["1", "2"]
        await until(lambda: "wait for a probe of their memory" in dispatcher.waits)
        for pid, *_ in begun(tmp_path):
            driver.run(driver.uuids[0], int(pid), 3000)
            driver.run(driver.uuids[1], int(pid), 3000)
        await until(lambda: len(events(lab, "probe_seen")) == 2)
        for pid, *_ in begun(tmp_path):
            driver.stop(int(pid))
        finish(tmp_path)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 4
    assert len(begun(tmp_path)) == 2


@pytest.mark.parametrize(
    ("resources", "expected"), [({}, (None, "none", None)), ({"vram_mb": 5000}, (5000, "user", None))]
)
async def test_a_probe_that_fails_is_not_the_experiments_failure(
    tmp_path: Path, home: Any, driver: Driver, resources: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    driver.set(gpus(1))
    finish(tmp_path, 3)
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, resources=resources)).run()
    assert lab.states == ["done"] * 3
    assert given(lab) == [expected] * 3
    assert events(lab, "probed") == ["probe: ended with exit code 3; the next best source is taken"]
    assert len(begun(tmp_path)) == 1
    assert {v.attempt for v in lab.views} == {1}
    lab.settled()


async def test_a_probe_that_was_not_seen_on_its_gpu_says_nothing(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    finish(tmp_path)
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, 1)).run()
    assert lab.states == ["done"]
    assert given(lab) == [(None, "none", None)]
    assert "never seen" in events(lab, "probed")[0]


async def test_a_probe_that_takes_too_long_is_stopped(
    tmp_path: Path, home: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "LIMIT_SECONDS", 0.5)
    driver.set(gpus(1))
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, 1)).run()
    assert lab.states == ["done"]
    assert "took more than" in events(lab, "probed")[0]
    assert not any(Path(f"/proc/{pid}").exists() for pid, *_ in begun(tmp_path))
    lab.settled()


async def test_after_a_crash_the_same_probe_is_found_again(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(2))
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 2))

    def seen() -> bool:
        for pid, *_ in begun(tmp_path):
            for uuid in driver.uuids:
                driver.run(uuid, int(pid), 4000)
        return bool(events(lab, "probe_seen"))

    await interrupted(lab, seen)
    driver.stop(int(begun(tmp_path)[0][0]))
    assert len(lab.rows(t.leases)) == 1
    finish(tmp_path)
    await lab.run()
    assert lab.states == ["done"] * 2
    assert len(begun(tmp_path)) == 1
    assert [(mb, source) for mb, source, _ in given(lab)] == [(4000, "probe")] * 2
    lab.settled()


async def test_killed_before_its_job_was_started_it_starts_once(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    finish(tmp_path)
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        dispatcher._record([], {})  # lease and intent of the probe are durable, and then it dies
    assert begun(tmp_path) == []
    assert len(lab.rows(t.leases)) == 1
    await lab.run()
    assert lab.states == ["done"]
    assert len(begun(tmp_path)) == 1
    lab.settled()


async def test_ticks_alone_bring_a_probe_to_its_end(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))

    async def tick() -> None:
        async with lab.open() as dispatcher:
            await dispatcher.adopt()
            await dispatcher.tick()

    await tick()
    await until(lambda: begun(tmp_path))
    driver.run(driver.uuids[0], int(begun(tmp_path)[0][0]), 2000)
    await tick()
    assert events(lab, "probe_seen") == ["2000 MiB"]
    driver.stop(int(begun(tmp_path)[0][0]))
    finish(tmp_path)
    await until(lambda: not Path(f"/proc/{begun(tmp_path)[0][0]}").exists())
    async with asyncio.timeout(30):
        while not events(lab, "probed"):
            await tick()
    await lab.run()
    assert given(lab) == [(2000, "probe", None)]


async def test_a_cancelled_campaign_stops_its_probe_and_another_try_begins_anew(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(1))
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        await until(lambda: begun(tmp_path))
        await dispatcher.cancel_all("enough")
    assert not Path(f"/proc/{begun(tmp_path)[0][0]}").exists()
    assert lab.rows(t.leases) == []
    finish(tmp_path)
    await lab.run()
    assert lab.states == ["done"]
    assert len(begun(tmp_path)) == 2


async def test_what_was_measured_needs_no_probe(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, DRY + WAITS + REPORT, 1))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: jobs(tmp_path))
        (pid,) = jobs(tmp_path).values()
        driver.run(driver.uuids[0], pid, 3000)
        await until(lambda: given(lab)[0][2] == 3000)
        driver.stop(pid)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    again = Lab(probed_seeds(tmp_path, DRY + WAITS + REPORT, 1), "full")
    await again.run()
    assert given(again)[-1] == (3000, "measured", None)
    assert begun(tmp_path) == []


async def test_a_probe_never_barges_in(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    finish(tmp_path)
    lab = Lab(probed_seeds(tmp_path, DRY + REPORT, 1))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        driver.change(driver.uuids[0], utilisation=99)
        await dispatcher.tick()
        assert len(lab.rows(t.leases)) == 1
        assert begun(tmp_path) == []
        driver.change(driver.uuids[0], utilisation=0)
        await asyncio.wait_for(dispatcher.run(), 60)
    assert lab.states == ["done"]
    assert len(begun(tmp_path)) == 1


async def killed_with_a_probe(folder: Path, driver: Driver, *, started: bool) -> tuple[Lab, Lab]:
    """Two campaigns that want the only GPU; the first one's dispatcher died with a probe on it."""
    driver.set(gpus(1))
    for name in ("dead", "alive"):
        (folder / name).mkdir()
    dead = Lab(probed_seeds(folder / "dead", DRY + REPORT, 1, name="dead"))
    with as_a_process_that_dies():
        killed = await dead.open().__aenter__()
    await killed.adopt()
    if started:
        await killed.tick()
        await until(lambda: begun(folder / "dead"))
    else:
        killed._record([], {})
    await killed._prober.close()
    assert len(dead.rows(t.leases)) == 1
    assert dead.rows(t.attempts) == []
    return dead, Lab(seeds(folder / "alive", REPORT, 1, name="alive"))


async def test_a_dead_ones_probe_gives_back_what_it_never_used(tmp_path: Path, home: Any, driver: Driver) -> None:
    dead, alive = await killed_with_a_probe(tmp_path, driver, started=False)
    await alive.run()
    assert alive.states == ["done"]
    assert alive.rows(t.leases) == []
    assert events(dead, "probed") == ["its dispatcher is gone, and nothing of it lives"]
    finish(tmp_path / "dead")  # whoever goes on probes anew, under a lease of its own
    await dead.run()
    assert dead.states == ["done"]
    assert [r["data"]["spec"]["attempt"] for r in dead.rows(t.events) if r["kind"] == "probe"] == [0, 1]
    assert len(begun(tmp_path / "dead")) == 1
    dead.settled()


async def test_a_dead_ones_probe_gives_its_gpu_back_once_over(tmp_path: Path, home: Any, driver: Driver) -> None:
    dead, alive = await killed_with_a_probe(tmp_path, driver, started=True)
    async with alive.open() as dispatcher:
        await dispatcher.adopt()
        assert await dispatcher._reclaim.reclaim() == []
        assert len(alive.rows(t.leases)) == 1
        finish(tmp_path / "dead")
        await asyncio.wait_for(dispatcher.run(), 60)
    assert alive.states == ["done"]
    assert alive.rows(t.leases) == []
    await dead.run()
    assert dead.states == ["done"]
    assert len(begun(tmp_path / "dead")) == 2
    dead.settled()


async def test_the_probe_of_one_who_lives_keeps_its_gpu(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    for name in ("busy", "other"):
        (tmp_path / name).mkdir()
    busy = Lab(probed_seeds(tmp_path / "busy", DRY + REPORT, 1, name="busy"))
    other = Lab(seeds(tmp_path / "other", REPORT, 1, name="other"))
    async with busy.open() as dispatcher:
        await dispatcher.adopt()
        dispatcher._record([], {})
        async with other.open() as waiting:
            await waiting.adopt()
            assert await waiting._reclaim.reclaim() == []
    assert len(busy.rows(t.leases)) == 1
