"""SSH hosts when something is wrong: connections that die, disks, programs that are missing, identities."""

import asyncio
import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, see, wait_until
from ends import ended
from ssh_rig import Sshd, running
from ssh_world import World, finished, seen_as, waiting, world

from prefect_campaign.launch.ssh import connection as ssh_connection
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import Handle

__all__ = ["world"]


@pytest.fixture
def sshd(tmp_path: Path):
    with running(Sshd(tmp_path / "host")) as up:
        yield up


# -- connections that die -------------------------------------------------------------------------------------------


async def test_a_host_that_goes_and_comes_back_is_unreachable_and_then_its_job_is_adopted(world: World, sshd: Sshd):
    spec = waiting(world)
    launcher = world.launcher(sshd)
    handle = await launcher.submit(spec)
    await wait_until((world.folder / "runs").exists)
    over = asyncio.create_task(ended(launcher, spec, handle))
    sshd.kill()
    seen = await seen_as(launcher, spec, handle, lambda one: one.status == "unreachable")
    assert "h1" in seen.detail
    assert (await launcher.look())[0].problem
    for call in (
        launcher.cancel(spec, handle),
        world.launcher(sshd).find(spec),
        launcher.submit(waiting(world, "other")),
    ):
        with pytest.raises(Transient):
            await call
    (world.folder / "go").touch()
    await asyncio.sleep(0.1)
    assert (await see(launcher, spec, handle)).status == "unreachable"
    assert not over.done()
    with running(sshd):
        other = world.launcher(sshd)
        assert (await other.find(spec)).detail["pid"] == handle.detail["pid"]
        assert (await seen_as(other, spec, handle, lambda one: one.status == "exited")).exit_code == 3
        await asyncio.wait_for(over, PATIENCE)
        with pytest.raises(Unknown):
            await other.submit(spec)
    assert (world.folder / "runs").read_text() == "run\n"


async def test_a_connection_that_dies_as_the_job_starts_is_unknown_and_the_job_is_found(world: World, tmp_path: Path):
    cut = tmp_path / "cut"
    shell = tmp_path / "shell"
    shell.write_text(f"""#!/bin/bash
        script=$(cat)
        answer=$(printf '%s\\n' "$script" | $SSH_ORIGINAL_COMMAND)
        case $script in *pc_start_job\\ *) [ -e '{cut}' ] && rm '{cut}' && kill -9 $PPID; esac
        printf '%s\\n' "$answer"
    """)
    shell.chmod(0o755)
    with running(Sshd(tmp_path / "host", shell=str(shell))) as sshd:
        spec = world.spec("sh", "-c", f"echo run >>'{world.folder}/runs'; exit 4")
        launcher = world.launcher(sshd, shared=(str(world.work),))
        cut.touch()
        with pytest.raises(Unknown):
            await launcher.submit(spec)
        assert not cut.exists()
        handle = await launcher.find(spec)
        await wait_until((Path(handle.detail["run_dir"]) / "status.json").exists)
        with pytest.raises(Unknown):
            await launcher.submit(spec)
        assert (world.folder / "runs").read_text() == "run\n"


async def test_an_exit_is_told_only_with_its_files(world: World, sshd: Sshd):
    broken = world.folder / "broken"
    sshd.program_on_path("rsync", f"#!/bin/sh\n[ -e '{broken}' ] && exit 12\nexec {shutil.which('rsync')} \"$@\"\n")
    spec = world.spec("sh", "-c", "echo out; exit 5")
    launcher = world.launcher(sshd)
    handle = await launcher.submit(spec)
    await wait_until((Path(handle.detail["run_dir"]) / "status.json").exists)
    broken.touch()
    seen = await see(launcher, spec, handle)
    assert seen.status == "unreachable"
    assert "not here yet" in seen.detail
    assert not (Path(spec.run_dir) / "status.json").exists()
    broken.unlink()
    assert (await see(launcher, spec, handle)).exit_code == 5
    assert launcher.logs(spec)[0].read_text() == "out\n"
    sshd.kill()
    assert (await see(launcher, spec, handle)).exit_code == 5  # what is here needs no host


async def test_a_host_that_accepts_and_says_nothing_does_not_hang_us(world: World, sshd: Sshd, monkeypatch):
    monkeypatch.setattr(ssh_connection, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        launcher = world.launcher(sshd, port=silent.getsockname()[1])
        with pytest.raises(Transient, match="cannot be reached"):
            await launcher.find(world.spec("true"))


async def test_a_command_that_never_answers_is_given_up_and_the_next_call_works(world: World, sshd: Sshd):
    connection = ssh_connection.Connection(sshd.host())
    with pytest.raises(Unknown, match="no answer within"):
        await connection.act("sleep 60", seconds=1)
    with pytest.raises(Transient, match="no answer within"):
        await connection.read("sleep 60", seconds=1)
    assert await connection.read("echo again") == "again\n"


@pytest.mark.parametrize("address", ["no-such-host.invalid", "127.0.0.1"])
async def test_nobody_there_is_transient(world: World, sshd: Sshd, address: str):
    sshd.kill()
    with pytest.raises(Transient, match="cannot be reached"):
        await world.launcher(sshd, address=address).submit(world.spec("true"))


async def test_of_many_launchers_that_submit_one_attempt_at_once_one_job_runs(world: World, sshd: Sshd):
    spec = waiting(world)
    launchers = [world.launcher(sshd) for _ in range(4)]
    results = await asyncio.gather(*(one.submit(spec) for one in launchers), return_exceptions=True)
    # Transient: a connection more than the host lets in at once; nothing was started by it.
    assert all(isinstance(one, Handle | Unknown | Transient) for one in results), [repr(one) for one in results]
    assert any(isinstance(one, Handle) for one in results), [repr(one) for one in results]
    await wait_until((world.folder / "runs").exists)
    found = [await world.launcher(sshd).find(spec) for _ in range(2)]
    assert found[0] == found[1]
    for one in results:  # also a handle on one that lost the race leads to the one that runs
        if isinstance(one, Handle):
            assert (await see(launchers[0], spec, one)).status == "running"
    (world.folder / "go").touch()
    await asyncio.wait_for(ended(launchers[0], spec, found[0]), PATIENCE)
    assert (await see(launchers[0], spec, found[0])).exit_code == 3
    assert (world.folder / "runs").read_text() == "run\n"


async def test_jobs_in_tmux_are_mirrored_too(world: World, sshd: Sshd, tmp_path_factory):
    sockets = tmp_path_factory.mktemp("t")
    launcher = world.launcher(sshd, tmux=True, env={"A": "1"})
    sshd.kill()
    sshd.environment["TMUX_TMPDIR"] = str(sockets)
    with running(sshd):
        spec = waiting(world)
        handle = await launcher.submit(spec)
        assert handle.detail["attach"] == "tmux -L campaign attach -t =pc-t-e-a1"
        (world.folder / "go").touch()
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        assert (await see(launcher, spec, handle)).exit_code == 3


# -- disks and programs ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], check=False).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_on_the_host_is_transient_and_says_so(world: World, sshd: Sshd, small_disk: Path):
    launcher = world.launcher(sshd, root=str(small_disk / "work"))
    (world.work / "train.py").write_bytes(os.urandom(200_000))
    with pytest.raises(Transient, match="No space left"):
        await launcher.submit(world.spec("true", name="code"))
    (world.work / "train.py").write_text("x")
    (small_disk / "filler").write_bytes(b"x" * 100_000)
    with pytest.raises(Transient, match="No space left"):
        await launcher.submit(world.spec("echo", *["x" * 40_000], name="script"))
    assert await launcher.find(world.spec("true", name="script")) is None
    (small_disk / "filler").unlink()
    assert (await finished(launcher, world.spec("true", name="code"))).exit_code == 0


async def test_a_work_folder_that_cannot_be_made_is_refused(world: World, sshd: Sshd):
    (sshd.home / "file").touch()
    assert "Not a directory" in await refused_start(world.launcher(sshd, root="file/work"), world.spec("true"))


async def refused_start(launcher, spec) -> str:
    with pytest.raises(Refused) as told:
        await launcher.submit(spec)
    return str(told.value)


async def test_a_work_folder_that_is_not_mounted_makes_jobs_unreachable_not_gone(world: World, sshd: Sshd):
    launcher = world.launcher(sshd)
    spec = world.spec("true")
    handle = await launcher.submit(spec)
    await wait_until((Path(handle.detail["run_dir"]) / "status.json").exists)
    root = sshd.home / ".campaign"
    root.rename(root.with_name("unmounted"))
    seen = await see(launcher, spec, handle)
    assert seen.status == "unreachable"
    assert seen.host_answers
    assert "not mounted" in seen.detail
    root.with_name("unmounted").rename(root)
    assert (await see(launcher, spec, handle)).exit_code == 0


async def test_a_work_folder_that_was_deleted_is_made_anew_as_a_person_is_told(world: World, sshd: Sshd):
    launcher = world.launcher(sshd)
    spec = world.spec("sleep 600")
    handle = await launcher.submit(spec)
    await launcher.cancel(spec, handle)
    root = sshd.home / ".campaign"
    shutil.rmtree(root)
    seen = await see(launcher, spec, handle)
    assert f"its work folder {root} is gone" in seen.detail
    command = re.search("`(.*)`", seen.detail)
    assert command is not None
    subprocess.run(shlex.split(command[1]), check=True)
    assert (await see(launcher, spec, handle)).status == "gone"
    # What starts there needs no such help.
    shutil.rmtree(root)
    assert (await finished(launcher, world.spec("true", name="next"))).exit_code == 0


def only(sshd: Sshd, *without: str) -> None:
    """Leave these programs out of the host's PATH."""
    for folder in ("/usr/bin", "/bin"):
        for name in os.listdir(folder):
            if name not in without and not (sshd.bin / name).exists():
                (sshd.bin / name).symlink_to(f"{folder}/{name}")
    sshd.environment["PATH"] = str(sshd.bin)


async def test_a_host_without_setsid_runs_jobs_that_outlive_the_connection(world: World, tmp_path: Path):
    sshd = Sshd(tmp_path / "host")
    only(sshd, "setsid")
    with running(sshd):
        launcher = world.launcher(sshd)
        spec = waiting(world)
        handle = await launcher.submit(spec)
        await wait_until((world.folder / "runs").exists)
    with running(sshd):
        other = world.launcher(sshd)
        assert await other.find(spec) == handle
        assert (await see(other, spec, handle)).status == "running"
        await other.cancel(spec, handle, grace_seconds=PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 143


@pytest.mark.parametrize(("program", "tmux"), [("rsync", False), ("tmux", True)])
async def test_a_program_that_is_missing_there_is_refused_with_its_name(
    world, tmp_path: Path, program: str, tmux: bool
):
    sshd = Sshd(tmp_path / "host")
    only(sshd, program)
    with running(sshd):
        told = await refused_start(world.launcher(sshd, tmux=tmux), world.spec("true"))
    assert f"{program} is not installed there; install it" in told


async def test_without_ssh_here_it_is_refused(world: World, sshd: Sshd, monkeypatch):
    launcher = world.launcher(sshd)
    monkeypatch.setenv("PATH", str(world.folder))
    assert "ssh is not installed on this machine" in await refused_start(launcher, world.spec("true"))


# -- identities -----------------------------------------------------------------------------------------------------


async def test_a_job_of_an_earlier_boot_is_gone_and_no_stranger_with_its_pid_is_ended(world: World, sshd: Sshd):
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        launcher = world.launcher(sshd)
        spec = waiting(world)
        handle = await launcher.submit(spec)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        for name in ("status.json", "claim/pid"):
            (Path(handle.detail["run_dir"]) / name).unlink()
        detail = {"run_dir": handle.detail["run_dir"], "pid": stranger.pid, "start_ticks": ticks, "boot_id": "earlier"}
        old = type(handle)(**{**handle.__dict__, "detail": detail})
        reused = type(handle)(**{**handle.__dict__, "detail": {**handle.detail, "pid": stranger.pid}})
        for one in (old, reused):
            assert (await see(launcher, spec, one)).status == "gone"
            await launcher.cancel(spec, one, grace_seconds=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_job_whose_script_was_killed_is_running_as_long_as_the_rest_of_it_lives(world: World, sshd: Sshd):
    launcher = world.launcher(sshd)
    spec = waiting(world)
    handle = await launcher.submit(spec)
    await wait_until((world.folder / "runs").exists)
    os.kill(handle.detail["pid"], 9)
    seen = await see(launcher, spec, handle)
    assert seen.status == "running"
    assert "job.sh was killed" in seen.detail
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    assert (await see(launcher, spec, handle)).status == "gone"
