"""Getting in to SSH hosts: keys that are right or wrong, shells that are odd, log-ins that chatter."""

import shutil
from pathlib import Path

import pytest
from contract.launchers import see
from ssh_rig import Sshd, running
from ssh_world import World, finished, waiting, world

from prefect_campaign.model.errors import Refused

__all__ = ["world"]


@pytest.fixture
def sshd(tmp_path: Path):
    with running(Sshd(tmp_path / "host")) as up:
        yield up


# -- keys and users -------------------------------------------------------------------------------------------------


async def refused(launcher, spec) -> str:
    with pytest.raises(Refused) as told:
        await launcher.submit(spec)
    assert "\n" not in str(told.value)
    assert (await launcher.look())[0].problem == str(told.value)
    return str(told.value)


async def test_an_unknown_host_key_is_refused_with_what_to_do(world: World, sshd: Sshd):
    sshd.known_hosts.write_text("")
    told = await refused(world.launcher(sshd), world.spec("true"))
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in told
    assert str(sshd.known_hosts) in told


async def test_a_changed_host_key_is_refused_with_what_to_do_and_running_jobs_are_not_given_up(
    world: World, sshd: Sshd
):
    spec = waiting(world)
    launcher = world.launcher(sshd)
    handle = await launcher.submit(spec)
    sshd.kill()
    sshd.new_host_key(known=False)
    with running(sshd):
        told = await refused(world.launcher(sshd), world.spec("true", name="other"))
        assert f"ssh-keygen -f {sshd.known_hosts} -R '[127.0.0.1]:{sshd.port}'" in told
        assert (await see(launcher, spec, handle)).status == "unreachable"
    (world.folder / "go").touch()


async def test_a_wrong_key_or_user_is_refused_with_what_to_do(world: World, sshd: Sshd):
    (sshd.folder / "authorized_keys").write_text("")
    assert "authorized_keys" in await refused(world.launcher(sshd), world.spec("true"))
    assert "'nobody-known'" in await refused(world.launcher(sshd, user="nobody-known"), world.spec("true"))
    assert "no file" in await refused(world.launcher(sshd, key_file="/none/key"), world.spec("true"))


async def test_key_files_with_odd_names_work(world: World, sshd: Sshd):
    folder = world.folder / "a b %h \"q\" 'r' ${HOME}"
    folder.mkdir()
    key, known = folder / "the key", folder / "known hosts"
    shutil.copy(sshd.user_key, key)
    shutil.copy(sshd.known_hosts, known)
    launcher = world.launcher(sshd, key_file=str(key), known_hosts=str(known))
    assert (await finished(launcher, world.spec("true"))).exit_code == 0


# -- log-ins --------------------------------------------------------------------------------------------------------

SHELLS = [name for name in ("bash", "dash", "csh", "fish", "zsh", "busybox") if shutil.which(name)]


@pytest.mark.parametrize("name", SHELLS)
async def test_any_log_in_shell_will_do(world: World, tmp_path: Path, name: str):
    shell = tmp_path / "shell"
    argv = f"{name} sh" if name == "busybox" else name
    shell.write_text(f'#!/bin/sh\nexec {argv} -c "$SSH_ORIGINAL_COMMAND"\n')
    shell.chmod(0o755)
    (world.work / "train.py").write_text("x")
    with running(Sshd(tmp_path / "host", shell=str(shell))) as sshd:
        launcher = world.launcher(sshd)
        spec = world.spec("sh", "-c", "ls; sleep 0.05; exit 6")
        assert (await finished(launcher, spec)).exit_code == 6
        assert launcher.logs(spec)[0].read_text() == "train.py\n"


async def test_banners_and_chatter_are_not_taken_for_answers(world: World, tmp_path: Path):
    noise = "printf '\\n%s\\n' found none started -end -begin; printf '%0900000d'; echo Permission denied '(x).' >&2"
    shell = tmp_path / "shell"
    # Also afterwards, but for rsync: where its own bytes end, only rsync knows.
    after = f"case $SSH_ORIGINAL_COMMAND in *rsync*) ;; *) {noise} ;; esac"
    shell.write_text(f'#!/bin/bash\n{noise}\nbash -c "$SSH_ORIGINAL_COMMAND"\ncode=$?\n{after}\nexit $code\n')
    shell.chmod(0o755)
    banner = "Host key verification failed.\nPermission denied (publickey).\nAuthorized use only!\n"
    (world.work / "train.py").write_text("x" * 100_000)
    with running(Sshd(tmp_path / "host", banner=banner, shell=str(shell))) as sshd:
        launcher = world.launcher(sshd)
        spec = world.spec("sh", "-c", 'wc -c <train.py; echo x >"$CAMPAIGN_RUN_DIR/file"; exit 6')
        assert (await finished(launcher, spec)).exit_code == 6
        assert launcher.logs(spec)[0].read_text().strip() == "100000"
        assert (Path(spec.run_dir) / "file").exists()


async def test_a_noisy_bashrc_is_survived(world: World, sshd: Sshd):
    for name in (".bashrc", ".profile", ".bash_profile"):
        (sshd.home / name).write_text(f"echo noise of {name}; printf 'no newline'; echo more >&2\n")
    (world.work / "train.py").write_text("x")
    launcher = world.launcher(sshd)
    assert (await finished(launcher, world.spec("ls", "train.py"))).exit_code == 0


async def test_a_log_in_that_runs_nothing_is_refused(world: World, tmp_path: Path):
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\necho This account is currently not available. >&2\nexit 1\n")
    shell.chmod(0o755)
    with running(Sshd(tmp_path / "host", shell=str(shell))) as sshd:
        told = await refused(world.launcher(sshd), world.spec("true"))
    assert "currently not available" in told
