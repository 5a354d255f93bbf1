"""What the Docker launcher says of jobs when the engine goes away, restarts, or their containers do."""

import asyncio
import signal
from pathlib import Path

import pytest
from contract.docker_faults import RUNS, runs
from contract.launchers import PATIENCE, make_spec, see, wait_until
from docker_lab import Lab
from ends import ended

from prefect_campaign.launch.docker.container import CAMPAIGN, LEDGER, TOKEN
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import AttemptSpec


@pytest.fixture
def launcher(lab: Lab) -> DockerLauncher:
    return lab.launcher()


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    return make_spec(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))


async def test_an_engine_that_restarts_with_its_containers_alive_changes_nothing(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    over = asyncio.create_task(ended(launcher, spec, handle))
    await wait_until(lambda: runs(lab.folder))
    fake_docker.stop()
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code) == ("unreachable", None)
    assert "no Docker engine answers" in seen.detail
    with pytest.raises(Transient):
        await launcher.cancel(spec, handle)
    assert not over.done()
    fake_docker.start()
    assert (await see(launcher, spec, handle)).status == "running"
    (lab.folder / "go").touch()
    await asyncio.wait_for(over, PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 4
    assert runs(lab.folder) == 1


async def test_an_engine_that_restarts_and_ends_its_containers_leaves_their_record(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    over = asyncio.create_task(ended(launcher, spec, handle))
    await wait_until(lambda: runs(lab.folder))
    fake_docker.stop(live_restore=False)
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    seen = await see(launcher, spec, handle)  # the record needs no engine
    assert (seen.status, seen.exit_code, seen.signal) == ("exited", 143, 15)
    fake_docker.start()
    await asyncio.wait_for(over, PATIENCE)
    await wait_until(lambda: all(one.status == "exited" for one in fake_docker.containers.values()))
    launcher.scope = Scope("c", "l")
    for one in fake_docker.containers.values():  # its end may have been told from its record alone
        one.config["Labels"] |= {CAMPAIGN: "c", LEDGER: "l"}
    await launcher.look()  # its container is cleaned away with the rest
    assert not fake_docker.containers


async def test_an_exit_while_the_engine_is_away_is_told_when_it_is_back(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    over = asyncio.create_task(ended(launcher, spec, handle))
    await wait_until(lambda: runs(lab.folder))
    fake_docker.stop()
    (lab.folder / "go").touch()
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    fake_docker.start()
    await asyncio.wait_for(over, PATIENCE)


async def test_events_that_break_off_are_heard_again(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    over = asyncio.create_task(ended(launcher, spec, handle))
    for _ in range(2):
        await wait_until(lambda: fake_docker.streams)
        fake_docker.cut()
    await wait_until(lambda: fake_docker.streams)
    (lab.folder / "go").touch()
    await asyncio.wait_for(over, PATIENCE)


async def test_an_engine_without_events_is_polled(lab, fake_docker, spec):
    fake_docker.fail("GET", "/events", 500, "no events", times=1_000)
    launcher = lab.launcher(poll_seconds=0.05)
    handle = await launcher.submit(spec)
    over = asyncio.create_task(ended(launcher, spec, handle))
    await wait_until(lambda: "GET /events" in fake_docker.asked)
    (lab.folder / "go").touch()
    await asyncio.wait_for(over, PATIENCE)


async def test_many_are_seen_by_one_request(lab, launcher, fake_docker, tmp_path):
    pairs = []
    for n in range(6):
        spec = make_spec(tmp_path / f"e{n}" / "a1", "sleep", "60", token=f"pc-test-e{n}-a1", workdir=str(tmp_path))
        pairs.append((spec, await launcher.submit(spec)))
    fake_docker.asked.clear()
    seen = await launcher.observe(pairs)
    assert {one.status for one in seen.values()} == {"running"}
    assert fake_docker.asked == ["GET /containers/json"]


async def test_a_job_killed_from_outside_is_gone_with_what_the_engine_says(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    over = asyncio.create_task(ended(launcher, spec, handle))
    fake_docker.containers[handle.job_id].said = b"the container's own words\n"
    fake_docker.signal(fake_docker.containers[handle.job_id], signal.SIGKILL)
    await asyncio.wait_for(over, PATIENCE)
    for _ in range(2):  # the second time from the run dir: the container is removed
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code, seen.signal) == ("gone", None, 9)
        assert (seen.scheduler_state, seen.oom_killed) == ("exited 137", False)
        assert not fake_docker.containers
    assert (Path(spec.run_dir) / "container.log").read_text() == "the container's own words\n"
    assert await lab.launcher().find(spec) == handle


@pytest.mark.parametrize("by", ["whole container", "one process"])
async def test_want_of_memory_is_seen_also_when_the_job_could_record_its_end(lab, launcher, fake_docker, spec, by):
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    container = fake_docker.containers[handle.job_id]
    container.oom_killed = True
    if by == "one process":
        fake_docker.inside(container, ["", "", "", "", "KILL", str(container.process.pid)])
    else:
        fake_docker.signal(container, signal.SIGKILL)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    seen = await see(launcher, spec, handle)
    assert seen.oom_killed
    assert (seen.status, seen.signal) == ("exited" if by == "one process" else "gone", 9)
    fake_docker.stop()
    assert (await see(launcher, spec, handle)).oom_killed  # it is on record here


async def test_a_container_that_somebody_removed_is_gone_and_proves_nothing(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    over = asyncio.create_task(ended(launcher, spec, handle))
    container = fake_docker.containers.pop(handle.job_id)
    fake_docker.signal(container, signal.SIGKILL)
    await asyncio.wait_for(over, PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", None)
    assert spec.token in seen.detail


async def test_a_list_without_it_is_not_believed(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    fake_docker.fail("GET", "/containers/json", 200, "")
    del fake_docker.containers[handle.job_id].config["Labels"][TOKEN]
    assert (await see(launcher, spec, handle)).status == "running"


async def test_another_engine_says_nothing_of_it(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    fake_docker.info["ID"] = "somebody else's"
    other = lab.launcher()
    seen = await see(other, spec, handle)
    assert seen.status == "unreachable"
    assert "another Docker engine" in seen.detail


async def test_a_container_that_cannot_be_saved_stays_until_it_can(lab, launcher, fake_docker, spec):
    handle = await launcher.submit(spec)
    (lab.folder / "go").touch()
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    fake_docker.fail("GET", "/logs", 500, "no logs now")
    seen = await see(launcher, spec, handle)
    assert (seen.exit_code, list(fake_docker.containers)) == (4, [handle.job_id])
    assert "stays for now" in seen.detail
    assert (await see(launcher, spec, handle)).exit_code == 4
    assert not fake_docker.containers


async def test_a_job_whose_run_dir_another_has_claimed_is_left_open(lab, launcher, fake_docker, spec):
    Path(spec.run_dir).mkdir(parents=True)
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    (Path(spec.run_dir) / "status.json").unlink()
    end = fake_docker.containers[handle.job_id]
    end.exit_code = 75
    assert (await see(launcher, spec, handle)).status == "unreachable"
