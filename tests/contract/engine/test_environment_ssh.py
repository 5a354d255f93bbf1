"""Hosts that are reached by SSH are checked before their first use, all at once: real sshd's on loopback."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from contract.engine.environment_lab import PYTHON7, WORKS, dry_campaign, dry_runs, host_events, quick_checks
from contract.engine.lab import REPORT, Lab, campaign, until
from repository import track
from ssh_rig import Sshd, running

from prefect_campaign.engine import host_check
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import Fenced

__all__ = ["quick_checks"]


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    made: list[Any] = []

    def make(name: str, **settings: Any) -> Sshd:
        context = running(Sshd(tmp_path_factory.mktemp(name), name, **settings))
        made.append(context)
        return context.__enter__()

    yield make
    for context in made:
        context.__exit__(None, None, None)


def fleet(*hosts: Any) -> Fleet:
    return Fleet({h.name: SshLauncher(h, poll_seconds=0.05) for h in hosts})


def where(lab: Lab) -> set[str | None]:
    return {v.host for v in lab.views}


async def test_a_host_that_fails_gives_its_experiments_to_the_others(
    tmp_path: Path, home: Any, host: Callable[..., Sshd]
) -> None:
    good, bad = host("good"), host("bad")
    bad.program_on_path("python7", "#!/bin/sh\nexit 1\n")
    good.program_on_path("python7", WORKS)
    lab = Lab(
        campaign(
            tmp_path, REPORT, points=range(4), command=PYTHON7, launcher=["ssh/any"], policy={"max_parallel": None}
        )
    )
    await lab.run(fleet(good.host(), bad.host()))
    assert lab.states == ["done"] * 4
    assert where(lab) == {"good"}
    found = {e["host"]: e for e in host_events(lab)}
    assert {name: e["state"] for name, e in found.items()} == {"good": "ready", "bad": "failed"}
    assert found["bad"]["steps"][-1]["step"] == "program"
    assert found["good"]["steps"][-1] == {
        "step": "dry run",
        "state": "left out",
        "detail": "policy.dry_run names no arguments for one",
    }
    lab.settled()


async def test_if_all_hosts_fail_nothing_hangs(tmp_path: Path, home: Any, host: Callable[..., Sshd]) -> None:
    one = host("one")
    lab = Lab(campaign(tmp_path, REPORT, points=range(3), command=PYTHON7, launcher=["ssh/any"]))
    await lab.run(fleet(one.host()))
    assert lab.states == ["on_hold"] * 3
    assert "no host can run it: one: failed its check: program: " in lab.views[0].reason
    assert "python7 is not found; PATH of jobs there is" in lab.views[0].reason
    lab.settled()
    one.program_on_path("python7", WORKS)
    lab.reopen()
    lab.open_stage()
    await lab.run(fleet(one.host()))
    assert lab.states == ["done"] * 3


async def test_a_slow_host_does_not_hold_up_the_others(tmp_path: Path, home: Any, host: Callable[..., Sshd]) -> None:
    quick, slow = host("quick"), host("slow")
    go = tmp_path / "go"
    quick.program_on_path("python7", WORKS)
    slow.program_on_path("python7", f"#!/bin/sh\nuntil [ -e '{go}' ]; do sleep 0.02; done\n")
    lab = Lab(campaign(tmp_path, REPORT, points=range(3), command=PYTHON7, launcher=["ssh/any"]))
    async with lab.open(fleet(slow.host(), quick.host())) as dispatcher:
        await asyncio.wait_for(dispatcher.run(), 60)
        assert lab.states == ["done"] * 3
        assert where(lab) == {"quick"}
        go.touch()
    lab.settled()


async def test_a_host_that_cannot_be_logged_in_to_is_failed_at_once(
    tmp_path: Path, home: Any, host: Callable[..., Sshd]
) -> None:
    good, strange = host("good"), host("strange")
    strange.new_host_key(known=False)
    strange.kill()
    with running(strange):
        lab = await Lab(campaign(tmp_path, REPORT, command="sh job.sh {x}")).run(fleet(strange.host(), good.host()))
    assert lab.states == ["done"]
    found = {e["host"]: e for e in host_events(lab)}
    if "strange" in found:
        assert "HAS CHANGED" in str(found["strange"]) or "is not the one" in str(found["strange"])


async def test_a_host_that_is_away_is_waited_for_and_used_when_it_is_back(
    tmp_path: Path, home: Any, host: Callable[..., Sshd]
) -> None:
    away = host("away")
    away.kill()
    lab = Lab(campaign(tmp_path, REPORT))
    async with lab.open(fleet(away.host())) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: lab.rows(t.host_checks))
        await asyncio.sleep(0.3)
        assert lab.states == ["ready"]
        with running(away):
            await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]


async def test_a_host_that_stays_away_fails_and_is_checked_again_when_it_is_back(
    tmp_path: Path, home: Any, host: Callable[..., Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_check, "PATIENCE_SECONDS", 0.0)
    away = host("away")
    away.kill()
    lab = Lab(campaign(tmp_path, REPORT))
    await lab.run(fleet(away.host()))
    assert lab.states == ["on_hold"]
    assert "away: failed its check: host away (127.0.0.1:" in lab.only.reason
    lab.reopen()
    lab.open_stage()
    monkeypatch.setattr(host_check, "PATIENCE_SECONDS", 60.0)
    with running(away):
        await lab.run(fleet(away.host()))
    assert lab.states == ["done"]


async def test_a_dry_run_that_cannot_be_seen_keeps_its_devices_until_it_is_over(
    tmp_path: Path, home: Any, host: Callable[..., Sshd]
) -> None:
    one = host("one")
    spec = dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done", policy={"max_parallel": None})
    track(tmp_path / "work")
    lab = Lab(spec)
    async with lab.open(fleet(one.host())) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dry_runs(tmp_path))
        one.kill()
        await asyncio.sleep(0.3)
        assert len(lab.rows(t.leases)) == 1
        (tmp_path / "go").touch()
        with running(one):
            await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_a_connection_that_breaks_again_and_again_starts_one_dry_run(
    tmp_path: Path, home: Any, host: Callable[..., Sshd]
) -> None:
    one = host("one")
    lab = Lab(dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done"))
    async with lab.open(fleet(one.host())) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        for _ in range(4):
            await asyncio.sleep(0.2)
            one.kill()
            await asyncio.sleep(0.2)
            one.start()
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_another_dispatcher_takes_the_check_over_with_the_campaign(tmp_path: Path, home: Any) -> None:
    lab = Lab(dry_campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done"))
    track(tmp_path / "work")
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: dry_runs(tmp_path))
        with lab.setting.ledger.write() as connection:  # as if this one had slept too long
            connection.execute(t.campaigns.update().values(fence=t.campaigns.c.fence + 1, owner=None))
        (tmp_path / "go").touch()
        with suppress(Fenced):
            await asyncio.wait_for(run, 30)
    await lab.run()
    assert lab.states == ["done"]
    assert len(dry_runs(tmp_path)) == 1
    lab.settled()


async def test_nothing_that_was_not_sent_is_deleted(tmp_path: Path, home: Any, host: Callable[..., Sshd]) -> None:
    one = host("one")
    mine = one.home / ".campaign" / "code" / "mine"
    mine.mkdir(parents=True)
    (mine / "notes").write_text("keep")
    lab = Lab(campaign(tmp_path, REPORT))
    await lab.run(fleet(one.host()))
    (tmp_path / "new.py").write_text("x = 1\n")
    lab2 = Lab(campaign(tmp_path, REPORT, name="again"))
    await lab2.run(fleet(one.host()))
    assert (lab.states, lab2.states) == (["done"], ["done"])
    assert (mine / "notes").read_text() == "keep"
    assert len(list((one.home / ".campaign" / "code").iterdir())) >= 3
