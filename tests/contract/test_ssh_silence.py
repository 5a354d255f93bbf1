"""Jobs on an SSH host whose copies here are old: only silence over there is a hang."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, tick_until, until
from contract.launchers import see
from ssh_rig import Sshd, running
from ssh_world import World, seen_as, waiting, world

from prefect_campaign.engine import away, dispatcher
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.queue.away import place_of
from prefect_campaign.launch.slurm.ssh import RemoteRunDirs
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.ledger import tables as t

__all__ = ["world"]

DAY = 86_400.0
BROKEN = "#!/bin/sh\necho 'rsync: disk quota exceeded' >&2\nexit 11\n"
FILES = ("stdout.log", "stderr.log", "metrics.jsonl")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with running(Sshd(tmp_path / "h1")) as up:
        yield up


def fleet(sshd: Sshd) -> Fleet:
    return Fleet({sshd.name: SshLauncher(sshd.host(), poll_seconds=0.05)})


def made_old(folder: Path) -> int:
    """Logs and metrics below a folder were last written a day ago; how many there are."""
    then = time.time() - DAY
    found = [path for name in FILES for path in folder.rglob(name)]
    for path in found:
        os.utime(path, (then, then))
    return len(found)


async def left_running_since_yesterday(folder: Path, sshd: Sshd, script: str) -> Lab:
    """A campaign whose orchestrator died while its job runs on; the job and its copies are a day old."""
    work = folder / "work"
    work.mkdir()
    lab = Lab(campaign(work, script))
    hosts = fleet(sshd)
    async with lab.open(hosts) as first:
        driving = asyncio.create_task(first.run())
        await until(lambda: lab.states == ["running"] and list(Path(lab.only.run_dir or "").glob("stdout.log")))
        driving.cancel()
        with suppress(asyncio.CancelledError):
            await driving
    hosts.close()
    # A copy that is under way must not come after what the test does to the files.
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
    then = time.time() - DAY
    with lab.setting.ledger.write() as connection:
        connection.execute(t.attempts.update().values(started_at=then, intent_at=then))
    return lab


async def test_a_job_that_writes_is_not_stopped_though_nothing_of_it_comes_here(
    tmp_path: Path, home: Any, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.02)
    writes = f"until [ -e {tmp_path}/go ]; do echo tick; sleep 0.05; done\n"
    lab = await left_running_since_yesterday(tmp_path, sshd, writes + REPORT)
    run_dir = Path(str(lab.only.run_dir))
    rsync = sshd.program_on_path("rsync", BROKEN)
    sshd.kill()
    assert made_old(run_dir)
    async with lab.open(fleet(sshd)) as second:
        await second.adopt()
        (live,) = second._watch.live.values()
        await tick_until(second, lambda: live.reach.missed)
        assert (live.stopped, live.heard) == (None, None)
        with running(sshd):
            await tick_until(second, lambda: live.heard is not None, 60)
            heard = live.heard
            await tick_until(second, lambda: live.heard not in (None, heard) and lab.states == ["running"], 60)
            assert live.stopped is None
            # Still nothing was copied: what is here would have been called a hang.
            assert max(p.stat().st_mtime for p in run_dir.iterdir() if p.name in FILES) < time.time() - DAY / 2
            rsync.unlink()
            (tmp_path / "go").touch()
            await asyncio.wait_for(second.run(), 60)
    assert lab.states == ["done"]
    assert lab.rows(t.alerts) == []
    assert len(lab.ran) == 1
    lab.settled()


async def test_a_job_that_is_silent_on_its_host_is_stopped(
    tmp_path: Path, home: Any, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.02)
    silent = f"""[ "$CAMPAIGN_ATTEMPT" = 1 ] && sleep 300\n{REPORT}"""
    lab = await left_running_since_yesterday(tmp_path, sshd, silent)
    assert made_old(sshd.home) >= 2
    async with lab.open(fleet(sshd)) as second:
        await asyncio.wait_for(second.run(), 60)
    assert lab.rows(t.attempts)[0]["signature"] == "hang"
    assert [r["syndrome"] for r in lab.rows(t.alerts)] == ["hang"]
    lab.settled()


async def test_a_log_too_large_to_be_copied_still_tells_that_the_job_writes(
    world: World, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_campaign.launch.ssh.mirror.LARGEST_WHILE_RUNNING", "1")
    launcher, spec = world.launcher(sshd), waiting(world, code=0)
    handle = await launcher.submit(spec)
    await seen_as(launcher, spec, handle, lambda one: one.quiet_since is not None)
    assert made_old(sshd.home) >= 2
    seen = await see(launcher, spec, handle)
    assert seen.quiet_since == pytest.approx(time.time() - DAY, abs=60)
    (log,) = sshd.home.rglob("stdout.log")
    log.write_text("a log of more than the limit")
    seen = await see(launcher, spec, handle)
    assert seen.quiet_since == pytest.approx(time.time(), abs=60)
    assert "more than" not in Path(spec.run_dir, "stdout.log").read_text()
    sshd.kill()
    assert (await see(launcher, spec, handle)).quiet_since is None
    (world.folder / "go").touch()


@pytest.mark.parametrize("skew", [-7200, 7200])
async def test_only_the_clock_of_the_disks_tells_for_how_long_a_job_is_silent(
    world: World, sshd: Sshd, skew: int
) -> None:
    sshd.program_on_path("date", f"#!/bin/sh\necho $(($(/bin/date +%s) + {skew}))\n")
    launcher, spec = world.launcher(sshd), waiting(world, code=0)
    handle = await launcher.submit(spec)
    await seen_as(launcher, spec, handle, lambda one: one.quiet_since is not None)
    files, place = RemoteRunDirs(Connection(sshd.host())), place_of("lab", sshd.host(), (), {})

    async def told() -> list[float | None]:
        seen = await see(launcher, spec, handle)
        here, queue = [(await one.traces([spec]))[spec.token].quiet_since for one in (files, place)]
        return [seen.quiet_since, here, queue]

    (log,) = sshd.home.rglob("stdout.log")
    log.write_text("it works")
    assert await told() == [pytest.approx(time.time(), abs=30)] * 3
    assert made_old(sshd.home) >= 2
    assert await told() == [pytest.approx(time.time() - DAY, abs=30)] * 3
    assert not list(log.parent.glob(".clock*"))
    # Where the disk cannot be asked, nothing is said.
    stat = sshd.program_on_path("stat", '#!/bin/sh\ncase "$*" in *.clock*) exit 1 ;; esac\nexec /usr/bin/stat "$@"\n')
    assert await told() == [None] * 3
    stat.unlink()
    (world.folder / "go").touch()
