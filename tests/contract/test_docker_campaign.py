"""Campaigns in containers: by a real engine, by the programmable one, and on without one where the spec allows it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker_lab
import pytest
from contract.engine.lab import REPORT, Lab, campaign, until
from fake_docker import FakeEngine
from rig_fixtures import DockerRig

from prefect_campaign.engine import away
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import tables as t


@pytest.fixture
def lab(fake_docker: FakeEngine, tmp_path: Path) -> Iterator[docker_lab.Lab]:
    with docker_lab.Lab(fake_docker.url, tmp_path).open() as opened:
        yield opened


def either(lab: docker_lab.Lab, **changes: Any) -> Fleet:
    return Fleet({host_name(): Either([lab.launcher(slots=2, **changes), LocalLauncher(2)])})


def made(folder: Path, script: str, points: int = 3) -> Lab:
    work = folder / "work"
    work.mkdir()
    return Lab(campaign(work, script, points=range(points)))


async def test_a_campaign_runs_in_containers(tmp_path: Path, home: Any, docker_engine: DockerRig) -> None:
    with docker_lab.Lab(docker_engine.url, tmp_path).open() as lab:
        here = made(tmp_path, REPORT + 'grep -q docker-init /proc/1/cmdline && echo "$CAMPAIGN_EXP_ID" >>inside')
        await here.run(Fleet({host_name(): lab.launcher(slots=2)}))
        assert here.states == ["done"] * 3
        assert {v.launcher for v in here.views} == {"docker"}
        assert {v.host for v in here.views} == {host_name()}
        assert [v.objective_value for v in here.views] == [0.5] * 3
        inside = (tmp_path / "work" / "inside").read_text().split()
        assert sorted(name for name in inside if not name.startswith("_")) == sorted(v.exp_id for v in here.views)
        assert not lab.names()
        here.settled()


async def test_which_launcher_ran_it_is_on_record(tmp_path: Path, home: Any, lab: docker_lab.Lab) -> None:
    here = made(tmp_path, REPORT)
    await here.run(either(lab))
    assert here.states == ["done"] * 3
    assert {v.launcher for v in here.views} == {"docker"}
    assert all((Path(str(v.run_dir)) / "container.json").exists() for v in here.views)
    here.settled()


async def test_without_an_engine_the_next_launcher_runs_it(tmp_path, home, lab, fake_docker) -> None:
    fake_docker.stop()
    here = made(tmp_path, REPORT)
    await here.run(either(lab))
    assert here.states == ["done"] * 3
    assert {v.launcher for v in here.views} == {"local"}
    assert {r["launcher"] for r in here.rows(t.attempts)} == {"local"}
    here.settled()


async def test_an_engine_that_comes_back_runs_what_is_still_to_run(tmp_path, home, lab, fake_docker) -> None:
    fake_docker.stop()
    here = made(tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done\n" + REPORT, points=5)
    async with here.open(either(lab)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(here.ran) == 2, 60)
        fake_docker.start()
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 120)
    assert here.states == ["done"] * 5
    assert [v.launcher for v in here.views][:2] == ["local"] * 2
    assert here.views[-1].launcher == "docker"
    here.settled()


async def test_an_engine_that_goes_in_the_middle_loses_nothing_and_starts_nothing_twice(
    tmp_path, home, lab, fake_docker, monkeypatch
) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.1)
    here = made(tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done\n" + REPORT, points=4)
    async with here.open(either(lab)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(here.ran) == 2, 60)
        fake_docker.stop()
        await until(lambda: here.states.count("on_hold") == 2, 60)  # they may live on: nobody else gets them
        (tmp_path / "go").touch()
        await until(lambda: here.states.count("done") >= 2, 60)
        fake_docker.start()
        await asyncio.wait_for(run, 180)
    assert here.states == ["done"] * 4
    assert len([line for line in here.ran if not line.startswith("_")]) == 4
    here.settled()


async def test_jobs_of_a_killed_orchestrator_are_adopted_from_their_launchers(tmp_path, home, lab, fake_docker) -> None:
    here = made(tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.02; done\n" + REPORT, points=2)
    async with here.open(either(lab)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: here.states == ["running"] * 2, 60)
        run.cancel()
        await asyncio.wait([run])
    (tmp_path / "go").touch()
    await here.run(either(lab))
    assert here.states == ["done"] * 2
    assert len([line for line in here.ran if not line.startswith("_")]) == 2
    here.settled()
