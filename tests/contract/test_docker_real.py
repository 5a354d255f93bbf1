"""A real Docker engine with what only it can do: limits, the kernel's killer, restarts, users, mounts."""

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.docker_faults import RUNS, go_on, runs
from contract.launchers import PATIENCE, make_spec, run_to_end, see, wait_until
from docker_lab import Lab, processes_inside
from ends import ended
from rig_fixtures import DockerRig

from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.records import AttemptSpec

HOLDS = "x = []\nwhile True:\n    x.append(bytearray(8 << 20))"


TOKEN = f"pc-test-{secrets.token_hex(4)}-a1"
"""Tests of another process use the same engine at the same time."""


def named(*args: Any, **changes: Any) -> AttemptSpec:
    """An attempt whose container has its name to itself."""
    return make_spec(*args, **{"token": TOKEN, **changes})


@pytest.fixture
def lab(docker_engine: DockerRig, tmp_path: Path) -> Iterator[Lab]:
    with Lab(docker_engine.url, tmp_path).open() as opened:
        yield opened


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    return named(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))


async def test_a_container_has_the_limits_that_were_asked_for(lab: Lab, spec: AttemptSpec) -> None:
    launcher = lab.launcher()
    spec = replace(spec, memory_mb=64, shm_mb=32)
    handle = await launcher.submit(spec)
    seen = lab.inspect(spec.token)
    host = seen["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (64 << 20, 64 << 20, 32 << 20)
    assert (host["PidsLimit"], host["Init"], host["NetworkMode"]) == (1000, True, "none")
    assert host["RestartPolicy"]["Name"] == "no"
    assert seen["Config"]["StopTimeout"] == 10
    assert handle.detail["image_id"] == seen["Image"]
    (lab.folder / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)


async def test_defaults_leave_room_for_the_machine_itself(lab: Lab, spec: AttemptSpec) -> None:
    launcher = lab.launcher()
    handle = await launcher.submit(spec)
    host = lab.inspect(spec.token)["HostConfig"]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert abs(host["Memory"] / whole - 0.75) < 0.01
    assert host["NanoCpus"] == max(1, len(os.sched_getaffinity(0)) - 2) * 10**9
    assert host["ShmSize"] == 8 << 30
    await go_on(launcher, spec, handle, lab.folder)


async def test_a_job_that_eats_more_memory_than_it_may_is_seen_as_that(lab: Lab, docker_engine, tmp_path) -> None:
    launcher = lab.launcher(image=docker_engine.python)
    spec = named(tmp_path / "e" / "a1", "python3", "-c", HOLDS, workdir=str(tmp_path), memory_mb=48)
    seen = await run_to_end(launcher, spec)
    assert seen.signal == 9
    assert seen.oom_killed
    assert (await see(launcher, spec, await launcher.find(spec))).oom_killed  # its container is removed by now
    assert not lab.names()


async def test_docker_kill_is_recognised(lab: Lab, spec: AttemptSpec, docker_engine: DockerRig) -> None:
    launcher = lab.launcher()
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    over = asyncio.create_task(ended(launcher, spec, handle))
    assert docker_engine.run("kill", spec.token).returncode == 0
    await asyncio.wait_for(over, PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code, seen.signal, seen.oom_killed) == ("gone", None, 9, False)
    assert seen.scheduler_state == "exited 137"
    assert seen.started_at < seen.ended_at
    assert not processes_inside(spec.run_dir)
    assert not lab.names()


async def test_a_container_removed_by_somebody_is_gone(lab: Lab, spec: AttemptSpec, docker_engine: DockerRig) -> None:
    launcher = lab.launcher()
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    over = asyncio.create_task(ended(launcher, spec, handle))
    assert docker_engine.run("rm", "-f", spec.token).returncode == 0
    await asyncio.wait_for(over, PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", None)


async def test_a_paused_container_runs_and_can_be_cancelled(lab: Lab, spec: AttemptSpec, docker_engine) -> None:
    launcher = lab.launcher()
    handle = await launcher.submit(spec)
    await wait_until(lambda: runs(lab.folder))
    if docker_engine.run("pause", spec.token).returncode != 0:
        pytest.skip("this machine cannot freeze containers")
    seen = await see(launcher, spec, handle)
    assert (seen.status, "paused" in seen.detail) == ("running", True)
    await launcher.cancel(spec, handle, grace_seconds=0.5)
    assert (await see(launcher, spec, handle)).status in ("gone", "exited")


async def test_files_belong_to_whoever_runs_the_job(lab: Lab, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    code = 'id -u; id -g; echo $HOME; echo x >"$CAMPAIGN_RUN_DIR/mine"; echo y >"$CAMPAIGN_CHECKPOINT_DIR/c"'
    spec = named(tmp_path / "e" / "a1", "sh", "-c", code, workdir=str(tmp_path))
    launcher = lab.launcher(user="12345:23456", secrets=("PATH",))
    assert (await run_to_end(launcher, spec)).exit_code == 0
    assert launcher.logs(spec)[0].read_text() == "12345\n23456\n/tmp\n"
    seen = (Path(spec.run_dir) / "mine").stat()
    assert (seen.st_uid, seen.st_gid) == (12345, 23456)


async def test_code_and_data_can_be_read_and_not_written(lab: Lab, tmp_path: Path) -> None:
    for name in ("code", "data", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = f"""
        cat file {tmp_path}/data/file /inside/file
        for folder in . {tmp_path}/data /inside; do touch $folder/new 2>/dev/null && echo written; done
        touch "$CAMPAIGN_RUN_DIR/new" "$CAMPAIGN_CHECKPOINT_DIR/new" && echo kept
        ls {tmp_path}
    """
    spec = named(tmp_path / "runs" / "e" / "a1", "sh", "-c", code, workdir=str(tmp_path / "code"))
    data = {str(tmp_path / "data"): "", str(tmp_path / "more"): "/inside"}
    launcher = lab.launcher(writable_code=False, data=data)
    assert (await run_to_end(launcher, spec)).exit_code == 0
    assert launcher.logs(spec)[0].read_text().split() == ["codedatamorekept", "code", "data", "runs"]
    with pytest.raises(Refused, match="nowhere"):
        await lab.launcher(data={"/nowhere": ""}).submit(replace(spec, token="pc-test-other"))


async def test_run_dirs_within_the_code_can_be_written_all_the_same(lab: Lab, tmp_path: Path) -> None:
    code = 'touch here 2>/dev/null && echo written; echo x >"$CAMPAIGN_RUN_DIR/mine" && echo kept'
    spec = named(tmp_path / "runs" / "e" / "a1", "sh", "-c", code, workdir=str(tmp_path))
    launcher = lab.launcher(writable_code=False)
    assert (await run_to_end(launcher, spec)).exit_code == 0
    assert launcher.logs(spec)[0].read_text() == "kept\n"


async def test_there_is_no_network_unless_asked_for(lab: Lab, tmp_path: Path) -> None:
    for n, (network, seen) in enumerate({"none": ["lo"], "bridge": ["eth0", "lo"]}.items()):
        spec = named(tmp_path / f"e{n}" / "a1", "ls", "/sys/class/net", token=f"pc-test-{n}", workdir=str(tmp_path))
        launcher = lab.launcher(network=network)
        assert (await run_to_end(launcher, spec)).exit_code == 0
        assert [name for name in launcher.logs(spec)[0].read_text().split() if name in ("lo", "eth0")] == seen


async def test_secrets_are_in_no_inspection(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "hidden value")
    code = 'printf %s "$LAB_KEY" >key; until [ -e go ]; do sleep 0.01; done'
    spec = named(tmp_path / "e" / "a1", "sh", "-c", code, workdir=str(tmp_path))
    launcher = lab.launcher(secrets=("LAB_KEY",))
    handle = await launcher.submit(spec)
    await wait_until(lambda: (tmp_path / "key").exists() and (tmp_path / "key").stat().st_size)
    assert (tmp_path / "key").read_text() == "hidden value"
    assert "hidden" not in json.dumps(lab.inspect(handle.job_id))
    (tmp_path / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)


async def test_an_image_that_is_nowhere_is_named(lab: Lab, spec: AttemptSpec) -> None:
    with pytest.raises(Refused, match="no-such-image:1"):
        await lab.launcher(image="no-such-image:1", pull="never").submit(spec)
    with pytest.raises((Refused, Transient), match=r"no-such-image:1.*cannot be pulled"):
        await lab.launcher(image="no-such-image:1").submit(spec)
    assert not lab.names()


async def test_an_engine_without_gpus_refuses_them_and_leaves_nothing(lab: Lab, spec: AttemptSpec) -> None:
    with pytest.raises(Refused, match="NVIDIA Container Toolkit"):
        await lab.launcher().submit(replace(spec, gpus=("GPU-1a",)))
    assert not lab.names()


async def test_a_network_that_does_not_exist_is_refused(lab: Lab, spec: AttemptSpec) -> None:
    with pytest.raises(Refused, match="no-such-network"):
        await lab.launcher(network="no-such-network").submit(spec)
    assert not lab.names()


async def test_a_disk_limit_that_is_not_enforced_is_a_warning(lab: Lab, spec: AttemptSpec) -> None:
    launcher = lab.launcher(disk_mb=100)
    handle = await launcher.submit(spec)
    told = json.loads((Path(spec.run_dir) / "container.json").read_text())
    limited = lab.inspect(handle.job_id)["HostConfig"].get("StorageOpt")
    assert limited or any("not enforced" in warning for warning in told["warnings"])
    await go_on(launcher, spec, handle, lab.folder)


async def test_leftovers_of_the_campaign_are_cleaned_and_no_others(lab: Lab, tmp_path: Path) -> None:
    specs = [
        named(tmp_path / name / "a1", "sh", "-c", "exit 5", token=f"pc-test-{name}", workdir=str(tmp_path))
        for name in ("mine", "theirs")
    ]
    for spec, ledger in zip(specs, ("L1", "L2"), strict=True):
        launcher = lab.launcher()
        launcher.scope = Scope("tta", ledger)
        await launcher.submit(spec)
        await wait_until((Path(spec.run_dir) / "status.json").exists)
    fresh = lab.launcher()
    fresh.scope = Scope("tta", "L1")

    async def cleaned() -> bool:
        fresh._cleaned_at = float("-inf")
        await fresh.look()
        return lab.names() == {"pc-test-theirs"}

    async with asyncio.timeout(PATIENCE):
        while not await cleaned():
            await asyncio.sleep(0.05)
    assert (await see(fresh, specs[0], await fresh.find(specs[0]))).exit_code == 5


# -- the engine itself ----------------------------------------------------------------------------------------------


async def test_an_engine_that_is_killed_and_comes_back_ends_or_keeps_its_jobs(docker_engine_alone, tmp_path) -> None:
    spec = named(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))
    with Lab(docker_engine_alone.url, tmp_path).open() as lab:
        launcher = lab.launcher()
        handle = await launcher.submit(spec)
        over = asyncio.create_task(ended(launcher, spec, handle))
        await wait_until(lambda: runs(tmp_path))
        docker_engine_alone.kill()
        seen = await see(launcher, spec, handle)
        assert seen.status == "unreachable"
        assert (await launcher.look())[0].problem
        assert not over.done()
        docker_engine_alone.start()
        (tmp_path / "go").touch()
        await asyncio.wait_for(over, PATIENCE)
        seen = await see(launcher, spec, handle)
        if seen.status == "exited":  # the engine ends what it finds, more or less gently; or the job was faster
            assert seen.exit_code in (4, 143)
        else:
            assert (seen.status, seen.scheduler_state) == ("gone", "exited 137")
        assert not processes_inside(spec.run_dir)
        assert runs(tmp_path) == 1


async def test_an_engine_that_is_stopped_in_order_ends_its_jobs_on_record(docker_engine_alone, tmp_path) -> None:
    spec = named(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))
    with Lab(docker_engine_alone.url, tmp_path).open() as lab:
        launcher = lab.launcher()
        handle = await launcher.submit(spec)
        over = asyncio.create_task(ended(launcher, spec, handle))
        await wait_until(lambda: runs(tmp_path))
        docker_engine_alone.stop()
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code) == ("exited", 143)
        docker_engine_alone.start()
        await asyncio.wait_for(over, PATIENCE)
        assert await launcher.find(spec) == handle


async def test_with_live_restore_a_job_outlives_the_engine(docker_engine_alone, tmp_path) -> None:
    spec = named(tmp_path / "e" / "a1", "sh", "-c", RUNS, workdir=str(tmp_path))
    with (
        docker_engine_alone.settings(**{"live-restore": True}),
        Lab(docker_engine_alone.url, tmp_path).open() as lab,
    ):
        launcher = lab.launcher()
        handle = await launcher.submit(spec)
        over = asyncio.create_task(ended(launcher, spec, handle))
        await wait_until(lambda: runs(tmp_path))
        docker_engine_alone.stop()
        assert (await see(launcher, spec, handle)).status == "unreachable"
        docker_engine_alone.start()
        assert (await see(launcher, spec, handle)).status == "running"
        assert not over.done()
        (tmp_path / "go").touch()
        await asyncio.wait_for(over, PATIENCE)
        assert (await see(launcher, spec, handle)).exit_code == 4
        assert runs(tmp_path) == 1
