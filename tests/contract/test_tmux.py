"""The launcher contract with jobs inside tmux; and what only tmux can do."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from contract.launcher_contract import LauncherContract
from contract.launchers import PATIENCE, make_spec, see, wait_until
from contract.tmux_server import sockets, tmux
from ends import ended

from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.tmux import session_name
from prefect_campaign.model.errors import Refused

__all__ = ["sockets"]


class TestLocalLauncherInTmux(LauncherContract):
    @pytest.fixture
    def new_launcher(self, sockets: Path) -> Iterator[Callable[[], LocalLauncher]]:
        made: list[LocalLauncher] = []

        def make() -> LocalLauncher:
            made.append(LocalLauncher(tmux=True))
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()


# -- what only tmux can do ------------------------------------------------------------------------------------------


@pytest.fixture
def launcher(sockets: Path) -> Iterator[LocalLauncher]:
    made = LocalLauncher(tmux=True)
    yield made
    made.close()


def job(folder: Path, code: str, name: str = "e"):
    return make_spec(folder / name / "a1", "sh", "-c", code, token=f"pc-test-{name}-a1", workdir=str(folder))


LOOP = "echo seen-$((40 + 2)); echo errors-$((40 + 3)) >&2; until [ -e go ]; do sleep 0.01; done"


async def test_a_person_who_attaches_sees_the_live_output_and_the_logs_have_it_too(launcher, sockets, tmp_path):
    spec = job(tmp_path, LOOP)
    handle = await launcher.submit(spec)
    assert handle.detail["attach"] == "tmux -L campaign attach -t =pc-test-e-a1"
    target = handle.detail["attach"].rsplit(" ", 1)[1] + ":"
    await wait_until(
        lambda: "errors-43" in tmux(sockets, "capture-pane", "-p", "-t", target).stdout, "output in the pane"
    )
    assert "seen-42" in tmux(sockets, "capture-pane", "-p", "-t", target).stdout
    assert [path.read_text() for path in launcher.logs(spec)] == ["seen-42\n", "errors-43\n"]
    (tmp_path / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    await wait_until(lambda: tmux(sockets, "has-session", "-t", target).returncode != 0, "its session ends with it")


async def test_the_command_to_attach_really_attaches(launcher, sockets, tmp_path):
    spec = job(tmp_path, LOOP)
    handle = await launcher.submit(spec)
    main, client = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "TMUX_TMPDIR": str(sockets)}
    person = subprocess.Popen(
        handle.detail["attach"].split(),
        stdin=client,
        stdout=client,
        stderr=client,
        env=environment,
        start_new_session=True,
    )
    os.close(client)
    os.set_blocking(main, False)
    shown = bytearray()

    def sees() -> bool:
        with suppress(BlockingIOError):
            shown.extend(os.read(main, 65536))
        return b"seen-42" in shown

    try:
        await wait_until(sees, "the job's output on the person's terminal")
    finally:
        person.kill()
        person.wait()
        os.close(main)
    assert (await see(launcher, spec, handle)).status == "running"
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)


async def test_a_killed_session_is_seen_and_others_live_on(launcher, sockets, tmp_path):
    one, two = job(tmp_path, "exec sleep 60", "one"), job(tmp_path, "exec sleep 60", "two")
    first, second = await launcher.submit(one), await launcher.submit(two)
    await wait_until((Path(one.run_dir) / "claim/pid").exists)
    tmux(sockets, "kill-session", "-t", f"={session_name(one.token)}")
    await asyncio.wait_for(ended(launcher, one, first), PATIENCE)
    seen = await see(launcher, one, first)
    assert seen.status == "gone" or seen.exit_code in (129, 143)
    assert (await see(launcher, two, second)).status == "running"
    await launcher.cancel(two, second, grace_seconds=PATIENCE)


async def test_a_killed_tmux_server_is_seen(launcher, sockets, tmp_path):
    spec = job(tmp_path, "exec sleep 60")
    handle = await launcher.submit(spec)
    await wait_until((Path(spec.run_dir) / "claim/pid").exists)
    os.kill(int(tmux(sockets, "display-message", "-p", "#{pid}").stdout), 9)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    seen = await see(launcher, spec, handle)
    assert seen.status == "gone" or seen.exit_code in (129, 143)


async def test_cancelling_touches_no_other_session_of_the_server(launcher, sockets, tmp_path):
    spec = job(tmp_path, "exec sleep 60")
    handle = await launcher.submit(spec)
    tmux(sockets, "new-session", "-d", "-s", "of-a-person", "sleep 60")
    tmux(sockets, "new-session", "-d", "-s", f"{session_name(spec.token)}-like-it", "sleep 60")
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    await wait_until(lambda: tmux(sockets, "has-session", "-t", f"={session_name(spec.token)}").returncode != 0)
    left = tmux(sockets, "list-sessions", "-F", "#S").stdout.split()
    assert sorted(left) == ["of-a-person", f"{session_name(spec.token)}-like-it"]


async def test_every_job_has_the_environment_of_its_own_starter(launcher, sockets, tmp_path, monkeypatch):
    said = []
    for n in range(2):
        monkeypatch.setenv("STARTED_AS", f"number {n}")
        spec = job(tmp_path, 'echo "$STARTED_AS"; until [ -e go ]; do sleep 0.01; done', f"n{n}")
        handle = await launcher.submit(spec)
        said.append((spec, handle))
    (tmp_path / "go").touch()
    for spec, handle in said:
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert [launcher.logs(spec)[0].read_text() for spec, _ in said] == ["number 0\n", "number 1\n"]


async def test_without_tmux_it_is_refused_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    launcher = LocalLauncher(tmux=True)
    with pytest.raises(Refused, match="tmux is not installed here; install it"):
        await launcher.submit(job(tmp_path, "true"))
    assert await launcher.find(job(tmp_path, "true")) is None


@pytest.mark.parametrize("token", ["pc-a.b:c", "-x", "a b", "é" * 80, "x" * 300, "semi;", "$(touch x)", "=a", "#{pid}"])
async def test_odd_tokens_have_sessions_too(launcher, sockets, tmp_path, token):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 3", token=token)
    spec = type(spec)(**{**spec.__dict__, "workdir": str(tmp_path)})
    handle = await launcher.submit(spec)
    name = handle.detail["attach"].rsplit("=", 1)[1]
    assert tmux(sockets, "list-sessions", "-F", "#S").stdout.split() == [name]
    (tmp_path / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 3


def test_tokens_that_differ_have_sessions_that_differ():
    tokens = ["a.b", "a:b", "a_b", "a b", "s_a_b", "x" * 200, "x" * 201, "-a", "_a"]
    assert len({session_name(token) for token in tokens}) == len(tokens)
