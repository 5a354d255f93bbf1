"""What an SSH host has: its GPUs by a fake nvidia-smi on its PATH, and who uses them by its real /proc."""

import asyncio
import getpass
import json
from pathlib import Path

import pytest
from contract.launchers import wait_until
from ends import ended
from smi import PROCESS, gpu, log
from ssh_rig import Sshd, running
from ssh_world import World, world

from prefect_campaign.launch.ssh import connection as ssh_connection
from prefect_campaign.launch.ssh.launcher import SshLauncher

__all__ = ["world"]


def has_gpus(sshd: Sshd, text: str, code: int = 0) -> None:
    """The host's nvidia-smi says this, but only to ``-q -x``."""
    said = sshd.folder / "nvidia-smi.xml"
    said.write_text(text)
    sshd.program_on_path("nvidia-smi", f'#!/bin/sh\n[ "$*" = "-q -x" ] || exit 2\ncat "{said}"\nexit {code}\n')


async def look(launcher: SshLauncher):
    (view,) = await launcher.look()
    return view


@pytest.fixture
def sshd(tmp_path: Path):
    with running(Sshd(tmp_path / "host", "gpu1.lab")) as up:
        yield up


async def test_a_host_without_a_driver_has_processors(world: World, sshd: Sshd):
    launcher = world.launcher(sshd, factor=2.5)
    view = await look(launcher)
    assert (view.host, view.launcher, view.gpus, view.problem, view.factor) == ("gpu1.lab", "ssh", (), "", 2.5)
    assert view.slots == launcher.slots >= 1
    assert view.cores
    assert abs(view.seen_at - sshd.folder.stat().st_mtime) < 600
    told = await look(world.launcher(sshd, slots=7))
    assert (told.slots, told.cores) == (7, False)


async def test_gpus_with_owner_and_attempt_of_their_processes(world: World, sshd: Sshd):
    spec = world.spec("sh", "-c", "echo $$; exec sleep 60")
    launcher = world.launcher(sshd, reserve=("1",), keep_free=1)
    handle = await launcher.submit(spec)
    launcher.watch(spec, handle, lambda token: None)
    out = launcher.logs(spec)[0]
    await wait_until(lambda: out.exists() and out.read_text().strip())
    ours = int(out.read_text())
    processes = PROCESS.format(pid=ours, type="C", name="python", used="900 MiB")
    processes += PROCESS.format(pid=1, type="G", name="/usr/lib/Xorg", used="4 MiB")
    processes += PROCESS.format(pid=999_999_999, type="C", name="elsewhere", used="5 MiB")
    has_gpus(sshd, log(gpu(0, processes=processes), gpu(1)))
    view = await look(launcher)
    assert (view.problem, view.driver, view.cuda, len(view.gpus)) == ("", "550.54.15", "12.4", 2)
    seen = [(p.pid, p.used_mb, p.user, p.command, p.graphics, p.run_dir) for p in view.gpus[0].processes]
    assert seen == [
        (ours, 900, getpass.getuser(), "python", False, spec.run_dir),
        (1, 4, "root", "Xorg", True, None),
        (999_999_999, 5, "?", "elsewhere", False, None),
    ]
    assert "1" in view.reserve
    assert view.gpus[1].uuid in view.reserve
    assert view.keep_free == 1
    await launcher.cancel(spec, handle)


async def test_one_broken_gpu_is_told_and_the_others_are_fine(world: World, sshd: Sshd):
    has_gpus(sshd, log(gpu(0), gpu(1, total="[Unknown Error]", free="[Unknown Error]")))
    view = await look(world.launcher(sshd))
    assert [bool(one.problem) for one in view.gpus] == [False, True]
    assert view.problem == ""


@pytest.mark.parametrize(
    ("text", "code"), [("Failed to initialize NVML: Driver/library version mismatch\n", 18), ("", 9)]
)
async def test_a_driver_that_does_not_answer_is_the_hosts_problem(world: World, sshd: Sshd, text: str, code: int):
    has_gpus(sshd, text, code)
    view = await look(world.launcher(sshd))
    assert view.gpus == ()
    assert view.gpu_problem.startswith("GPUs cannot be read")


async def test_a_driver_that_hangs_is_given_up(world: World, sshd: Sshd):
    sshd.program_on_path("nvidia-smi", "#!/bin/sh\nexec sleep 600\n")
    # The time limit is the host's own `timeout`; here it is one that does not wait.
    sshd.program_on_path("timeout", '#!/bin/sh\nshift 3\n"$@" & kill $!\nexit 124\n')
    view = await look(world.launcher(sshd))
    assert "(124)" in view.gpu_problem


async def test_a_reserved_gpu_that_is_not_there_stops_all_of_them(world: World, sshd: Sshd):
    has_gpus(sshd, log(gpu(0)))
    view = await look(world.launcher(sshd, reserve=("GPU-typo-1",)))
    assert "GPU-typo-1" in view.gpus[0].problem


async def test_a_clock_that_is_far_off_is_a_problem(world: World, sshd: Sshd):
    sshd.program_on_path("date", "#!/bin/sh\necho 1000000000\n")
    assert "its clock is" in (await look(world.launcher(sshd))).problem


async def test_an_unreachable_host_says_so_and_is_seen_again_when_it_is_back(world: World, sshd: Sshd):
    has_gpus(sshd, log(gpu(0)))
    launcher = world.launcher(sshd, keep_free=1)
    assert not (await look(launcher)).problem
    sshd.kill()
    view = await look(launcher)
    assert (view.gpus, view.keep_free) == ((), 1)
    assert "cannot be reached" in view.problem
    with running(sshd):
        assert not (await look(launcher)).problem


async def test_two_hosts_have_their_own_homes_gpus_and_jobs(world: World, sshd: Sshd, tmp_path: Path):
    (world.work / "train.sh").write_text('cd; pwd; echo "$CUDA_VISIBLE_DEVICES"')
    with running(Sshd(tmp_path / "other", "gpu2.lab")) as second:
        has_gpus(sshd, log(gpu(0)))
        has_gpus(second, log(gpu(1), gpu(2)))
        launchers = [world.launcher(sshd), world.launcher(second)]
        views = await asyncio.gather(*map(look, launchers))
        assert [(view.host, len(view.gpus)) for view in views] == [("gpu1.lab", 1), ("gpu2.lab", 2)]
        for launcher, view, host in zip(launchers, views, (sshd, second), strict=True):
            spec = world.spec("sh", "train.sh", name=view.host, gpus=(view.gpus[0].uuid,), host=view.host)
            handle = await launcher.submit(spec)
            assert (handle.launcher, handle.host) == ("ssh", view.host)
            await ended(launcher, spec, handle)
            assert launcher.logs(spec)[0].read_text().split() == [str(host.home), view.gpus[0].uuid]


async def test_one_call_sees_any_number_of_jobs(world: World, sshd: Sshd, monkeypatch):
    launcher = world.launcher(sshd, shared=(str(world.folder),))
    pairs = [(spec, await launcher.submit(spec)) for spec in (world.spec("true", name=f"e{n}") for n in range(12))]
    for spec, _ in pairs:
        await wait_until((Path(spec.run_dir) / "status.json").exists)
        (Path(spec.run_dir) / "status.json").rename(Path(spec.run_dir) / "kept")
    calls = []
    run = ssh_connection.run_program

    async def counted(argv, *rest):
        calls.append(argv)
        return await run(argv, *rest)

    monkeypatch.setattr(ssh_connection, "run_program", counted)
    seen = await launcher.observe(pairs)
    assert ({one.status for one in seen.values()}, len(seen), len(calls)) == ({"gone"}, 12, 1)
    for spec, _ in pairs:
        (Path(spec.run_dir) / "kept").rename(Path(spec.run_dir) / "status.json")
    seen = await launcher.observe(pairs)
    assert ({one.exit_code for one in seen.values()}, len(calls)) == ({0}, 1)
    assert json.dumps([handle.detail for _, handle in pairs])
