"""Limits, GPUs and secrets of containers, and which of them are cleaned away."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from contract.docker_faults import RUNS, container_json, go_on
from contract.launchers import PATIENCE, make_spec, run_to_end, see, wait_until
from docker_lab import Lab
from ends import ended

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.secrets import secrets_folder
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import AttemptSpec


@pytest.fixture
def launcher(lab: Lab) -> DockerLauncher:
    return lab.launcher()


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    return make_spec(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))


async def test_gpus_are_asked_for_by_uuid_and_an_engine_without_them_refuses(lab, launcher, fake_docker, spec):
    spec = replace(spec, gpus=("GPU-1a", "GPU-2b"), gpu_count=2)
    with pytest.raises(Refused, match="NVIDIA Container Toolkit"):
        await launcher.submit(spec)
    assert not fake_docker.containers
    fake_docker.info["gpus"] = True
    handle = await launcher.submit(spec)
    asked = fake_docker.containers[handle.job_id].config
    assert asked["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-1a", "GPU-2b"], "Capabilities": [["gpu"]]}]
    assert not any(item.startswith("NVIDIA_VISIBLE_DEVICES") for item in asked["Env"])
    assert "CUDA_VISIBLE_DEVICES" not in (Path(spec.run_dir) / "job.sh").read_text()
    await go_on(launcher, spec, handle, lab.folder)


@pytest.mark.parametrize(
    ("status", "sent", "warned"),
    [
        ({}, {}, "storage driver overlay2 on extfs"),
        ({"DriverStatus": [["Backing Filesystem", "xfs"]]}, {"size": "500M"}, ""),
        ({"Driver": "btrfs"}, {"size": "500M"}, ""),
        ({"DriverStatus": [["Backing Filesystem", "xfs"]], "no pquota": True}, None, "pquota"),
    ],
)
async def test_a_limit_of_disk_is_set_where_there_is_one_and_else_is_a_warning(
    lab, fake_docker, spec, status, sent, warned
):
    fake_docker.info |= status
    launcher = lab.launcher(disk_mb=500)
    handle = await launcher.submit(spec)
    assert fake_docker.containers[handle.job_id].config["HostConfig"]["StorageOpt"] == sent
    warnings = "; ".join(container_json(spec)["warnings"])
    assert warned in warnings if warned else not warnings
    await go_on(launcher, spec, handle, lab.folder)


async def test_secrets_reach_the_job_and_nobody_else(lab, fake_docker, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "it's $HOME `hidden`\nof two lines")
    code = 'printf %s "$LAB_KEY" >key; until [ -e go ]; do sleep 0.01; done'
    spec = make_spec(tmp_path / "e" / "a1", "sh", "-c", code, workdir=str(tmp_path))
    launcher = lab.launcher(secrets=("LAB_KEY",))
    handle = await launcher.submit(spec)
    await wait_until(lambda: (tmp_path / "key").exists() and (tmp_path / "key").stat().st_size)
    assert (tmp_path / "key").read_text() == os.environ["LAB_KEY"]
    assert "hidden" not in json.dumps(lab.inspect(handle.job_id))
    folder = secrets_folder(spec.token, spec.run_dir)
    (inside,) = folder.iterdir()
    assert list(inside.iterdir()) == []  # gone before the job's first line
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    (tmp_path / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert not folder.exists()
    told = [path.read_text() for path in Path(spec.run_dir).iterdir() if path.is_file()]
    assert not any("hidden" in text for text in told)


async def test_a_secret_that_is_not_set_is_refused_by_name(lab, fake_docker, spec):
    with pytest.raises(Refused, match="secret NO_SUCH_KEY is not set"):
        await lab.launcher(secrets=("NO_SUCH_KEY",)).submit(spec)
    assert not fake_docker.containers
    assert not secrets_folder(spec.token, spec.run_dir).exists()


async def test_what_was_left_behind_is_cleaned_by_its_labels_alone(lab, fake_docker, tmp_path):
    def one(name: str) -> AttemptSpec:
        return make_spec(tmp_path / name / "a1", "sh", "-c", RUNS, token=f"pc-{name}", workdir=str(tmp_path))

    mine, others, running = lab.launcher(), lab.launcher(), lab.launcher()
    mine.scope, others.scope, running.scope = Scope("tta", "L1"), Scope("tta", "L2"), Scope("tta", "L1")
    over, foreign, alive = one("over"), one("foreign"), one("alive")
    await mine.submit(over)
    await others.submit(foreign)
    (tmp_path / "go").touch()
    await wait_until(lambda: all(c.status == "exited" for c in fake_docker.containers.values()))
    (tmp_path / "go").unlink()
    handle = await running.submit(alive)
    stranger = fake_docker.stranger("stranger")
    stranger.status = "exited"
    for container in fake_docker.containers.values():
        container.said = b"last words"
    fresh = lab.launcher()
    fresh.scope = Scope("tta", "L1")
    await fresh.look()
    assert {c.name for c in fake_docker.containers.values()} == {"pc-foreign", "pc-alive", "stranger"}
    assert (Path(over.run_dir) / "container.log").read_text() == "last words"
    assert (await see(fresh, over, await fresh.find(over))).exit_code == 4
    await fresh.cancel(alive, handle, grace_seconds=PATIENCE)


async def test_a_launcher_without_a_campaign_cleans_nothing(lab, fake_docker, spec):
    launcher = lab.launcher()
    launcher.scope = Scope("c", "l")
    await launcher.submit(spec)
    (lab.folder / "go").touch()
    await wait_until(lambda: all(c.status == "exited" for c in fake_docker.containers.values()))
    await lab.launcher().look()
    assert len(fake_docker.containers) == 1


async def test_a_job_runs_to_its_end_in_the_end(launcher, tmp_path):
    seen = await run_to_end(launcher, make_spec(tmp_path / "e" / "a1", "true", workdir=str(tmp_path)))
    assert seen.exit_code == 0
