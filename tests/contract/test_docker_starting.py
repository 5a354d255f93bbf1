"""What the Docker launcher makes of an engine that fails, goes away or does not answer when jobs are started."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.docker_faults import RUNS, container_json, go_on, runs
from contract.launchers import make_spec, see, wait_until
from docker_lab import Lab

from prefect_campaign.launch.docker import launcher as launching
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec


@pytest.fixture
def launcher(lab: Lab) -> DockerLauncher:
    return lab.launcher()


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    return make_spec(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))


async def test_without_an_engine_nothing_is_started_and_the_host_says_what_to_do(lab, launcher, fake_docker, spec):
    fake_docker.stop()
    (view,) = await launcher.look()
    assert fake_docker.url in view.problem
    assert "systemctl start docker" in view.problem
    for call in (launcher.submit(spec), launcher.find(spec)):
        with pytest.raises(Transient, match="no Docker engine answers"):
            await call
    assert not (Path(spec.run_dir) / "claim").exists()
    fake_docker.start()
    assert (await launcher.look())[0].problem == ""
    assert await launcher.find(spec) is None
    handle = await launcher.submit(spec)
    await go_on(launcher, spec, handle, lab.folder)


async def test_an_engine_that_hangs_is_a_problem_and_is_asked_once(lab, launcher, fake_docker, monkeypatch):
    monkeypatch.setattr(launching, "LOOK_SECONDS", 0.2)
    await launcher.look()
    with fake_docker.lock:  # every answer waits for it
        for _ in range(3):
            (view,) = await launcher.look()
            assert "does not answer within" in view.problem
    assert fake_docker.asked.count("GET /_ping") == 2
    await asyncio.sleep(0.1)
    assert (await launcher.look())[0].problem == ""


@pytest.mark.parametrize("path", ["/containers/create", "/start"])
async def test_an_answer_that_is_lost_leaves_it_open_and_the_container_is_found_or_made_anew(
    lab, launcher, fake_docker, spec, path
):
    fake_docker.fail("POST", path, carried_out=True)
    with pytest.raises(Unknown, match="look first"):
        await launcher.submit(spec)
    handle = await launcher.find(spec)
    if path == "/start":
        assert handle is not None
    else:  # it was made, but never started: removed, so that there is none
        assert handle is None
        assert not fake_docker.containers
        handle = await launcher.submit(spec)
    await go_on(launcher, spec, handle, lab.folder)


@pytest.mark.parametrize("path", ["/info", "/images/", "/containers/create"])
async def test_a_failing_engine_is_transient_and_leaves_nothing(lab, launcher, fake_docker, spec, path):
    fake_docker.fail("POST" if "create" in path else "GET", path, 500, "something broke")
    with pytest.raises(Transient, match="something broke") as told:
        await launcher.submit(spec)
    assert "\n" not in str(told.value)
    assert not fake_docker.containers
    await go_on(launcher, spec, await launcher.submit(spec), lab.folder)


async def test_a_container_that_cannot_start_is_removed(lab, launcher, fake_docker, spec):
    fake_docker.fail("POST", "/start", 500, "no space left on device")
    with pytest.raises(Transient, match="no space left"):
        await launcher.submit(spec)
    assert not fake_docker.containers
    assert await launcher.find(spec) is None
    await go_on(launcher, spec, await launcher.submit(spec), lab.folder)


async def test_an_image_without_a_shell_is_refused(launcher, fake_docker, spec):
    fake_docker.fail("POST", "/start", 400, 'exec: "/bin/sh": stat /bin/sh: no such file or directory')
    with pytest.raises(Refused, match="/bin/sh"):
        await launcher.submit(spec)
    assert not fake_docker.containers


async def test_an_image_that_is_missing_is_pulled_once_or_refused(lab, fake_docker, spec):
    fake_docker.add_image("lab/train:2", pulled=False, digests=("lab/train@sha256:abc",))
    with pytest.raises(Refused, match=r"lab/train:2.*docker pull lab/train:2"):
        await lab.launcher(image="lab/train:2", pull="never").submit(spec)
    with pytest.raises(Refused, match=r"lab/none:1.*cannot be pulled.*access denied"):
        await lab.launcher(image="lab/none:1").submit(spec)
    launcher = lab.launcher(image="lab/train:2")
    handle = await launcher.submit(spec)
    assert handle.detail["digest"] == "lab/train@sha256:abc"
    assert handle.detail["image_id"] == fake_docker.images["lab/train:2"]["Id"]
    assert fake_docker.asked.count("POST /images/create") == 2
    await go_on(launcher, spec, handle, lab.folder)
    assert container_json(spec)["handle"]["detail"]["digest"] == "lab/train@sha256:abc"


async def test_a_registry_that_cannot_be_reached_is_transient(lab, fake_docker, spec):
    fake_docker.fail("POST", "/images/create", 500, "Get https://r/v2/: dial tcp: lookup r: no such host")
    with pytest.raises(Transient, match="no such host"):
        await lab.launcher(image="lab/none:1").submit(spec)


async def test_a_container_of_this_attempt_that_is_there_is_adopted(lab, launcher, fake_docker, spec):
    handle = await lab.launcher().submit(spec)
    await wait_until(lambda: runs(lab.folder))
    (Path(spec.run_dir) / "claim").rename(lab.folder / "claim")  # as if it had not got so far
    with pytest.raises(Unknown, match="has a container already"):
        await launcher.submit(spec)
    assert await launcher.find(spec) == handle
    (lab.folder / "claim").rename(Path(spec.run_dir) / "claim")
    await go_on(launcher, spec, handle, lab.folder)


async def test_of_many_submitters_at_once_one_starts_it(lab, spec):
    launchers = [lab.launcher() for _ in range(4)]
    results = await asyncio.gather(*(one.submit(spec) for one in launchers), return_exceptions=True)
    started = [one for one in results if not isinstance(one, Exception)]
    assert len(started) == 1
    assert all(isinstance(one, Unknown | Transient) for one in results if isinstance(one, Exception)), results
    assert await launchers[0].find(spec) == started[0]
    await go_on(launchers[1], spec, started[0], lab.folder)


async def test_a_strangers_container_of_that_name_is_left_alone(lab, launcher, fake_docker, spec):
    stranger = fake_docker.stranger(spec.token)
    assert await launcher.find(spec) is None
    handle = await launcher.submit(spec)
    assert handle.detail["name"].startswith(f"{spec.token}-")
    assert await lab.launcher().find(spec) == handle
    await go_on(launcher, spec, handle, lab.folder)
    assert fake_docker.containers == {stranger.id: stranger}


async def test_a_name_that_is_just_being_given_up_is_waited_for(lab, launcher, fake_docker, spec):
    fake_docker.fail("POST", "/containers/create", 409, "Conflict. The container name is already in use", times=2)
    handle = await launcher.submit(spec)
    assert handle.detail["name"] == spec.token
    await go_on(launcher, spec, handle, lab.folder)


async def test_another_ledgers_attempt_of_that_name_runs_beside(lab, launcher, spec, tmp_path):
    (tmp_path / "other").mkdir()
    other = make_spec(tmp_path / "other" / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path / "other"))
    assert other.token == spec.token
    first, second = await launcher.submit(spec), await launcher.submit(other)
    assert await launcher.find(other) == second != first
    await go_on(launcher, other, second, tmp_path / "other")
    assert (await see(launcher, spec, first)).status == "running"
    await go_on(launcher, spec, first, lab.folder)


# -- crashes --------------------------------------------------------------------------------------------------------

STARTER = """
import asyncio, sys
from pathlib import Path
from contract.launchers import make_spec
from docker_lab import Lab
url, folder, run_dir, script = sys.argv[1:]
spec = make_spec(Path(run_dir), "sh", "-c", script, workdir=folder)
asyncio.run(Lab(url, Path(folder)).launcher().submit(spec))
"""


@pytest.mark.parametrize("point", ["container_created", "job_spawned"])
async def test_a_starter_that_is_killed_leaves_one_job_or_none(lab, launcher, fake_docker, spec, point):
    argv = [sys.executable, "-c", STARTER, lab.url, str(lab.folder), spec.run_dir, RUNS]
    tests = str(Path(__file__).parents[1])
    done = await asyncio.to_thread(
        subprocess.run, argv, env={**os.environ, "PYTHONPATH": tests, "CAMPAIGN_CRASH_AT": point}, check=False
    )
    assert done.returncode == -9
    handle = await launcher.find(spec)
    if point == "container_created":
        assert handle is None
        handle = await launcher.submit(spec)
    assert len(fake_docker.containers) == 1
    await go_on(launcher, spec, handle, lab.folder)
