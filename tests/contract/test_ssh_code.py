"""What is brought to an SSH host, where, and what comes back."""

import os
from pathlib import Path

import pytest
from contract.launchers import wait_until
from ends import ended
from repository import repository
from ssh_rig import Sshd, running
from ssh_world import World, finished, world

from prefect_campaign.launch.ssh import connection
from prefect_campaign.model.errors import Refused

__all__ = ["world"]

SHOW = "find . -mindepth 1 | LC_ALL=C sort; pwd >&2"


@pytest.fixture
def sshd(tmp_path: Path):
    with running(Sshd(tmp_path / "host")) as up:
        yield up


def said(launcher, spec) -> list[str]:
    return launcher.logs(spec)[0].read_text().splitlines()


async def test_of_a_git_tree_tracked_and_new_files_come_and_ignored_ones_do_not(world: World, sshd: Sshd):
    for name in ("train.py", "sub/mod.py", "deleted.py", ".gitignore"):
        (world.work / name).parent.mkdir(exist_ok=True)
        (world.work / name).write_text("data/\n*.bin\n" if name == ".gitignore" else "x")
    repository(world.work)
    (world.work / "deleted.py").unlink()
    (world.work / "new file.py").write_text("new")
    (world.work / "weights.bin").write_text("large")
    (world.work / "data").mkdir()
    (world.work / "data/set").write_text("large")
    (world.work / "run.sh").write_text("#!/bin/sh\n")
    (world.work / "run.sh").chmod(0o755)
    (world.work / "link").symlink_to("train.py")
    spec = world.spec("sh", "-c", SHOW + "; [ -x run.sh ] && [ ! -x train.py ] && [ -L link ]")
    launcher = world.launcher(sshd)
    assert (await finished(launcher, spec)).exit_code == 0
    expected = {".gitignore", "link", "new file.py", "run.sh", "sub", "sub/mod.py", "train.py"}
    assert {line.removeprefix("./") for line in said(launcher, spec)} == expected


async def test_without_git_the_folder_comes_without_caches_and_run_dirs(world: World, sshd: Sshd):
    (world.work / "train.py").write_text("x")
    (world.work / "__pycache__").mkdir()
    (world.work / "__pycache__/train.pyc").write_text("x")
    inside = World.__new__(World)
    inside.folder, inside.work, inside._launchers = world.work, world.work, []
    launcher = world.launcher(sshd)
    for n in range(2):  # the second would see the first one's run dir
        spec = inside.spec("sh", "-c", SHOW, name=f"e{n}")
        await finished(launcher, spec)
        assert said(launcher, spec) == ["./train.py"]
    assert len(os.listdir(sshd.home / ".campaign/code")) == 1


async def test_changed_code_goes_to_another_folder_and_running_jobs_keep_theirs(world: World, sshd: Sshd):
    (world.work / "train.sh").write_text("echo one")
    go = world.folder / "go"
    launcher = world.launcher(sshd)
    first = world.spec("sh", "-c", f"until [ -e '{go}' ]; do sleep 0.01; done; sh train.sh", name="one")
    handle = await launcher.submit(first)
    (world.work / "train.sh").write_text("echo two")
    second = world.spec("sh", "train.sh", name="two")
    await finished(launcher, second)
    go.touch()
    await ended(launcher, first, handle)
    assert (said(launcher, first), said(launcher, second)) == (["one"], ["two"])
    (world.work / "train.sh").write_text("echo one")
    third = world.spec("sh", "train.sh", name="three")
    await finished(world.launcher(sshd), third)
    assert len(os.listdir(sshd.home / ".campaign/code")) == 2


async def test_nothing_on_the_host_is_deleted(world: World, sshd: Sshd):
    (world.work / "train.sh").write_text("touch made-by-the-job")
    mine = sshd.home / ".campaign/code/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("a person's")
    launcher = world.launcher(sshd)
    for n in range(2):
        (world.work / "train.sh").write_text(f"touch made-by-{n}")
        await finished(launcher, world.spec("sh", "train.sh", name=f"e{n}"))
    made = sorted(path.name for path in mine.parent.rglob("made-by-*"))
    assert (mine.read_text(), made) == ("a person's", ["made-by-0", "made-by-1"])


async def test_code_that_vanished_from_the_host_is_brought_again(world: World, sshd: Sshd):
    (world.work / "train.sh").write_text("echo here")
    launcher = world.launcher(sshd)
    await finished(launcher, world.spec("sh", "train.sh", name="one"))
    code = sshd.home / ".campaign/code"
    code.rename(code.with_name("moved"))
    two = world.spec("sh", "train.sh", name="two")
    assert (await finished(launcher, two)).exit_code == 0
    assert said(launcher, two) == ["here"]


@pytest.mark.parametrize("root", ["two words", 'it\'s "quoted"', "$(touch injected)", "~/deep/er", "模型 é", "a;b&c|d"])
async def test_any_work_folder_will_do(world: World, sshd: Sshd, root: str):
    (world.work / "odd 'name' $(touch injected).py").write_text("x")
    spec = world.spec("sh", "-c", 'ls; echo done >"$1/result"', "sh", "{run_dir}", name="e 'e'")
    launcher = world.launcher(sshd, root=root)
    assert (await finished(launcher, spec)).exit_code == 0
    assert said(launcher, spec) == ["odd 'name' $(touch injected).py"]
    assert (Path(spec.run_dir) / "result").read_text() == "done\n"
    assert (sshd.home / root.removeprefix("~/") / "code").is_dir()
    assert not list(world.folder.rglob("injected"))


async def test_paths_in_command_and_variables_become_the_hosts(world: World, sshd: Sshd):
    words = ["--out={run_dir}/x", "{run_dir}", "{run_dir}2", f"{world.work}/train.py", f"a:{world.work}:b", "/other"]
    env = {"CKPT": world.spec("x").checkpoint_dir, "PLAIN": "as it is"}
    spec = world.spec("sh", "-c", 'printf "%s\\n" "$@" "$CKPT" "$PLAIN" "$PWD"', "sh", *words, env=env)
    launcher = world.launcher(sshd)
    handle = await launcher.submit(spec)
    await ended(launcher, spec, handle)
    there = handle.detail["run_dir"]
    *lines, work = said(launcher, spec)
    base = os.path.dirname(there)
    assert there.startswith(f"{sshd.home}/.campaign/runs/t-")
    assert work.startswith(f"{sshd.home}/.campaign/code/")
    assert lines == [
        f"--out={there}/x",
        there,
        f"{spec.run_dir}2",
        f"{work}/train.py",
        f"a:{work}:b",
        "/other",
        f"{base}/checkpoints",
        "as it is",
    ]


async def test_jobs_have_the_hosts_path_and_variables_and_the_campaigns_own_win(world: World, sshd: Sshd):
    (sshd.home / "venv/bin").mkdir(parents=True)
    tool = sshd.home / "venv/bin/mytool"
    tool.write_text("#!/bin/sh\necho mine $A $B\n")
    tool.chmod(0o755)
    launcher = world.launcher(sshd, path=("venv/bin", "~/none"), env={"A": "host", "B": "host"})
    spec = world.spec("mytool", env={"B": "campaign"})
    assert (await finished(launcher, spec)).exit_code == 0
    assert said(launcher, spec) == ["mine host campaign"]


async def test_run_dirs_come_back_whole_but_for_checkpoints_and_what_leads_out(world: World, sshd: Sshd):
    code = """
        cd "$CAMPAIGN_RUN_DIR"; mkdir -p sub/deep checkpoints; echo '{"a": 1}' >metrics.jsonl; echo x >sub/deep/file
        echo large >checkpoints/weights; ln -s /etc/passwd out; ln -s sub/deep/file in; mkfifo pipe
        printf 'a\\nb' >"odd
name"
    """
    spec = world.spec("sh", "-c", code)
    (Path(spec.run_dir)).mkdir(parents=True)
    (Path(spec.run_dir) / "mine").write_text("a person's")
    launcher = world.launcher(sshd)
    seen = await finished(launcher, spec)
    assert (seen.exit_code, seen.detail) == (0, "")
    here = {str(path.relative_to(spec.run_dir)) for path in Path(spec.run_dir).rglob("*")}
    logs = {"claim", "claim/pid", "job.sh", "status.json", "stderr.log", "stdout.log"}
    assert here == logs | {"mine", "metrics.jsonl", "sub", "sub/deep", "sub/deep/file", "in", "odd\nname"}


async def test_large_files_come_back_at_the_first_try(world: World, sshd: Sshd, monkeypatch):
    failed, real = [], connection.run_program

    async def seen(argv, stdin, seconds):
        code, out, said = await real(argv, stdin, seconds)
        failed.extend([said] if code else [])
        return code, out, said

    monkeypatch.setattr(connection, "run_program", seen)
    spec = world.spec("sh", "-c", 'head -c 60000000 /dev/urandom >"$CAMPAIGN_RUN_DIR/large"')
    assert (await finished(world.launcher(sshd), spec)).exit_code == 0
    assert (Path(spec.run_dir) / "large").stat().st_size == 60_000_000
    assert failed == []


async def test_logs_and_metrics_are_here_while_the_job_runs(world: World, sshd: Sshd):
    go = world.folder / "go"
    loop = f"until [ -e '{go}' ]; do sleep 0.01; done"
    spec = world.spec("sh", "-c", f'echo working; echo "{{}}" >"$CAMPAIGN_RUN_DIR/metrics.jsonl"; {loop}')
    launcher = world.launcher(sshd)
    handle = await launcher.submit(spec)
    launcher.watch(spec, handle, lambda token: None)
    out = launcher.logs(spec)[0]
    await wait_until(
        lambda: out.exists() and out.read_text() == "working\n" and (out.parent / "metrics.jsonl").exists()
    )
    assert not (out.parent / "status.json").exists()
    go.touch()
    await ended(launcher, spec, handle)


async def test_a_working_folder_that_is_too_large_is_refused(world: World, sshd: Sshd, monkeypatch):
    monkeypatch.setattr("prefect_campaign.launch.ssh.code.MOST_FILES", 3)
    for n in range(4):
        (world.work / f"{n}").touch()
    with pytest.raises(Refused, match="gitignore"):
        await world.launcher(sshd).submit(world.spec("true"))
    assert not (sshd.home / ".campaign/code").exists()
