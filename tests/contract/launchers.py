"""What every launcher must do. A launcher's own test file subclasses `LauncherContract` and gives it a factory.

Jobs are real. They are short sh programs, so that the suite runs wherever a job script does.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.model.errors import Refused, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

PATIENCE = 30.0
"""Seconds until a test gives up; none is ever waited for."""

HOSTILE = (
    "plain",
    "",
    "two words",
    " edges ",
    "it's",
    'say "hi"',
    "back\\slash \\n",
    "new\nline",
    "tab\t\rreturn",
    "$HOME ${PATH} $(touch injected) `touch injected`",
    "; touch injected; #",
    "&& touch injected || true",
    "* ? [a-z] ~ ~root {a,b} !! <x >injected |",
    "--option=-1",
    "grün \u00c1\u0081\u2028 模型 \U0001f600",
    "%s %d %% \\0",
    "x" * 5000,
)


def make_spec(run_dir: Path, *argv: str, token: str = "pc-test-e-a1", **changes: Any) -> AttemptSpec:
    """An attempt that runs `argv`; by default it works in the folder above its run dir's folder."""
    spec = AttemptSpec(
        exp_id="e",
        attempt=1,
        token=token,
        argv=argv,
        env={},
        workdir=str(run_dir.parent.parent),
        run_dir=str(run_dir),
        params={},
        seed=7,
    )
    return replace(spec, **changes)


async def wait_until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Look every few milliseconds until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def see(launcher: Launcher, spec: AttemptSpec, handle: Handle) -> Observation:
    """Observe one job."""
    return (await launcher.observe([(spec, handle)]))[spec.token]


async def run_to_end(launcher: Launcher, spec: AttemptSpec) -> Observation:
    """Submit, wait for the end, observe."""
    handle = await launcher.submit(spec)
    await asyncio.wait_for(launcher.ended(spec, handle), PATIENCE)
    return await see(launcher, spec, handle)


class LauncherContract:
    """The contract. Subclasses define the fixture `new_launcher`: a factory of launchers that share their jobs."""

    @pytest.fixture
    def new_launcher(self) -> Callable[[], Launcher]:
        raise NotImplementedError

    @pytest.fixture
    def launcher(self, new_launcher: Callable[[], Launcher]) -> Launcher:
        return new_launcher()

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def spec_of(self, root: Path) -> Callable[..., AttemptSpec]:
        def build(*argv: str, name: str = "e", attempt: int = 1, **changes: Any) -> AttemptSpec:
            token = f"pc-test-{name}-a{attempt}"
            return make_spec(root / name / f"a{attempt}", *argv, token=token, **{"workdir": str(root), **changes})

        return build

    # -- ends and records ---------------------------------------------------------------------------------------

    async def test_success_is_recorded_with_its_times(self, launcher, spec_of):
        before = time.time()
        seen = await run_to_end(launcher, spec_of("true"))
        assert (seen.status, seen.exit_code, seen.signal) == ("exited", 0, None)
        assert before - 2 <= seen.started_at <= seen.ended_at <= time.time() + 2

    @pytest.mark.parametrize("code", [1, 2, 75, 100, 126, 127, 255])
    async def test_the_exit_code_is_the_commands_own(self, launcher, spec_of, code):
        seen = await run_to_end(launcher, spec_of("sh", "-c", f"exit {code}"))
        assert (seen.status, seen.exit_code, seen.signal) == ("exited", code, None)

    @pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("SEGV", 11), ("TERM", 15), ("ABRT", 6)])
    async def test_death_by_a_signal_is_recorded_as_such(self, launcher, spec_of, name, number):
        seen = await run_to_end(launcher, spec_of("sh", "-c", f"ulimit -c 0; kill -{name} $$"))
        assert (seen.status, seen.exit_code, seen.signal) == ("exited", 128 + number, number)

    async def test_a_program_that_does_not_exist_fails_and_says_so(self, launcher, spec_of):
        spec = spec_of("no-such-program-anywhere", "--seed", "1")
        seen = await run_to_end(launcher, spec)
        assert (seen.status, seen.exit_code) == ("exited", 127)
        assert "no-such-program-anywhere" in launcher.logs(spec)[1].read_text()

    async def test_a_working_folder_that_does_not_exist_fails_and_says_so(self, launcher, spec_of, root):
        spec = spec_of("touch", str(root / "ran"), workdir=str(root / "not there"))
        seen = await run_to_end(launcher, spec)
        assert (seen.status, seen.exit_code) == ("exited", 126)
        assert str(root / "not there") in launcher.logs(spec)[1].read_text()
        assert not (root / "ran").exists()

    async def test_logs_are_kept_apart(self, launcher, spec_of):
        spec = spec_of("sh", "-c", "echo out; echo err >&2; cat")
        assert (await run_to_end(launcher, spec)).exit_code == 0
        out, err = launcher.logs(spec)
        assert (out.read_text(), err.read_text()) == ("out\n", "err\n")

    async def test_the_job_runs_in_its_working_folder(self, launcher, spec_of, root):
        work = root / "my work"
        work.mkdir()
        spec = spec_of("pwd", workdir=str(work))
        await run_to_end(launcher, spec)
        assert launcher.logs(spec)[0].read_text() == f"{work}\n"

    # -- what the job is given ----------------------------------------------------------------------------------

    async def test_the_job_finds_the_contract_in_its_environment(self, launcher, spec_of):
        spec = spec_of("env", "-0", env={"OWN": "mine", "CAMPAIGN_SEED": "not this", "WANDB_DIR": "/elsewhere"})
        await run_to_end(launcher, spec)
        found = dict(item.split("=", 1) for item in launcher.logs(spec)[0].read_text().split("\0") if item)
        assert found["OWN"] == "mine"
        assert found["CAMPAIGN_SEED"] == "7"
        assert found["CAMPAIGN_RUN_DIR"] == spec.run_dir
        assert found["CAMPAIGN_EXP_ID"] == "e"
        assert found["CAMPAIGN_ATTEMPT"] == "1"
        assert found["CAMPAIGN_CHECKPOINT_DIR"] == spec.checkpoint_dir
        assert Path(spec.checkpoint_dir).is_dir()
        assert found["WANDB_RUN_ID"] == spec.token
        assert found["WANDB_DIR"] == "/elsewhere"

    async def test_hostile_values_arrive_as_they_are(self, launcher, spec_of, root):
        env = {f"HOSTILE_{n}": value for n, value in enumerate(HOSTILE)}
        show = 'printf "%s\\0" "$@"; n=0; while [ $n -lt ' + str(len(HOSTILE)) + " ]; do "
        show += 'eval "printf \\"%s\\\\0\\" \\"\\$HOSTILE_$n\\""; n=$((n + 1)); done'
        spec = spec_of("sh", "-c", show, "sh", *HOSTILE, env=env)
        assert (await run_to_end(launcher, spec)).exit_code == 0
        assert launcher.logs(spec)[0].read_bytes().decode().split("\0")[:-1] == [*HOSTILE, *HOSTILE]
        assert not list(root.rglob("injected"))

    @pytest.mark.parametrize(
        "folder", ["two words", "it's", 'a "b"', "$(touch injected)", "new\nline", "模型 é", "-n", "a;b"]
    )
    async def test_hostile_folders_work(self, launcher, root, folder):
        base = root / folder
        base.mkdir()
        spec = make_spec(base / "e e" / "a1", "sh", "-c", 'echo hi >"$CAMPAIGN_RUN_DIR/here"', workdir=str(base))
        handle = await launcher.submit(spec)
        assert await launcher.find(spec) == handle
        await asyncio.wait_for(launcher.ended(spec, handle), PATIENCE)
        assert (await see(launcher, spec, handle)).exit_code == 0
        assert (Path(spec.run_dir) / "here").read_text() == "hi\n"
        assert not list(root.rglob("injected"))

    @pytest.mark.parametrize(
        "bad",
        [
            {"argv": ()},
            {"argv": ("echo", "a\0b")},
            {"argv": ("echo", "\ud800")},
            {"argv": ("echo", "x" * 200_000)},
            {"env": {"A B": "1"}},
            {"env": {"1A": "1"}},
            {"env": {"A;touch injected": "1"}},
            {"env": {"A": "\0"}},
            {"run_dir": "relative/run"},
        ],
    )
    async def test_a_spec_that_can_never_run_is_refused(self, launcher, spec_of, bad):
        spec = replace(spec_of("true"), **bad)
        with pytest.raises(Refused) as told:
            await launcher.submit(spec)
        assert "\n" not in str(told.value)
        assert not (Path(spec.run_dir) / "claim").exists()

    # -- never twice, never lost --------------------------------------------------------------------------------

    async def test_an_attempt_that_was_never_submitted_is_not_found(self, launcher, spec_of):
        other = spec_of("true", name="other")
        await run_to_end(launcher, other)
        assert await launcher.find(spec_of("true")) is None

    async def test_a_running_job_is_found_and_followed_by_another_launcher(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "touch started; until [ -e go ]; do sleep 0.01; done; exit 4")
        handle = await new_launcher().submit(spec)
        await wait_until((root / "started").exists)
        other = new_launcher()
        assert await other.find(spec) == handle
        assert (await see(other, spec, handle)).status == "running"
        over = asyncio.create_task(other.ended(spec, handle))
        (root / "go").touch()
        await asyncio.wait_for(over, PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 4

    async def test_an_ended_job_is_found_with_its_record(self, new_launcher, spec_of):
        spec = spec_of("sh", "-c", "exit 6")
        await run_to_end(new_launcher(), spec)
        other = new_launcher()
        handle = await other.find(spec)
        assert handle is not None
        await asyncio.wait_for(other.ended(spec, handle), PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 6

    async def test_a_handle_survives_json(self, new_launcher, spec_of):
        spec = spec_of("sleep", "60")
        handle = await new_launcher().submit(spec)
        stored = json.loads(json.dumps(handle.__dict__))
        other = new_launcher()
        assert Handle(**stored) == handle
        assert (await see(other, spec, Handle(**stored))).status == "running"
        await other.cancel(spec, Handle(**stored), grace_seconds=5)

    async def test_a_second_submission_says_look_first_and_runs_nothing(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "echo run >>runs")
        await run_to_end(new_launcher(), spec)
        with pytest.raises(Unknown):
            await new_launcher().submit(spec)
        assert (root / "runs").read_text() == "run\n"

    async def test_closing_a_launcher_leaves_its_jobs_alone(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 3")
        first = new_launcher()
        handle = await first.submit(spec)
        first.close()
        (root / "go").touch()
        other = new_launcher()
        await asyncio.wait_for(other.ended(spec, handle), PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 3

    # -- watching -----------------------------------------------------------------------------------------------

    async def test_many_are_observed_at_once_each_with_its_own_result(self, launcher, spec_of):
        specs = [spec_of("sh", "-c", f"exit {n}", name=f"e{n}") for n in range(5)]
        pairs = [(spec, await launcher.submit(spec)) for spec in specs]
        await asyncio.wait_for(asyncio.gather(*(launcher.ended(*pair) for pair in pairs)), PATIENCE)
        (Path(specs[2].run_dir) / "status.json").write_text("garbage")
        seen = await launcher.observe(pairs)
        assert [seen[s.token].exit_code for s in specs] == [0, 1, None, 3, 4]
        assert seen[specs[2].token].status == "gone"

    async def test_observing_nothing_is_fine(self, launcher):
        assert await launcher.observe([]) == {}

    async def test_the_end_is_told_once_to_every_watcher(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "until [ -e go ]; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        told: list[tuple[str, str]] = []
        launcher.watch(spec, handle, lambda token: told.append(("a", token)))
        launcher.watch(spec, handle, lambda token: told.append(("b", token)))
        await asyncio.sleep(0.02)
        assert told == []
        (root / "go").touch()
        await wait_until(lambda: len(told) == 2)
        assert sorted(told) == [("a", spec.token), ("b", spec.token)]
        launcher.watch(spec, handle, lambda token: told.append(("late", token)))
        await wait_until(lambda: len(told) == 3)
        assert told[2] == ("late", spec.token)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b'{"state":"exited","exit_code":0,"tok',
            b"\xff\xfe\x00",
            b"[]",
            b"null",
            b'{"state":"exited","exit_code":true,"token":"pc-test-e-a1"}',
            b'{"state":"exited","exit_code":"0","token":"pc-test-e-a1"}',
            b'{"state":"exited","exit_code":-1,"token":"pc-test-e-a1"}',
            b'{"state":"exited","exit_code":NaN,"token":"pc-test-e-a1"}',
            b'{"state":"running","exit_code":0,"token":"pc-test-e-a1"}',
            b'{"state":"exited","exit_code":0,"token":"pc-test-other-a1"}',
            b'{"state":"exited","exit_code":0}',
            b'{"state":"exited","exit_code":0,"token":"pc-test-e-a1"}' + b" " * 100_000,
            b"[" * 50_000,
        ],
    )
    async def test_a_damaged_record_is_no_exit_and_is_set_aside(self, launcher, spec_of, content):
        spec = spec_of("true")
        handle = await launcher.submit(spec)
        await asyncio.wait_for(launcher.ended(spec, handle), PATIENCE)
        record = Path(spec.run_dir) / "status.json"
        record.write_bytes(content)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code) == ("gone", None)
        assert str(record) in seen.detail
        assert "\n" not in seen.detail
        assert not record.exists()
        assert (record.parent / "status.json.damaged-1").read_bytes() == content

    # -- cancelling ---------------------------------------------------------------------------------------------

    async def test_cancel_ends_a_job_and_its_end_is_on_record(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "touch started; exec sleep 60")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code, seen.signal) == ("exited", 143, 15)

    async def test_a_cancelled_job_may_end_in_its_own_way(self, launcher, spec_of, root):
        code = "trap 'echo bye; exit 7' TERM; touch started; while :; do sleep 0.01; done"
        spec = spec_of("sh", "-c", code)
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        assert (await see(launcher, spec, handle)).exit_code == 7
        assert launcher.logs(spec)[0].read_text() == "bye\n"

    async def test_a_job_that_ignores_term_is_killed(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "trap '' TERM; touch started; while :; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=0.05)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code) == ("exited", 137)

    async def test_cancel_at_any_moment_leaves_nothing_running(self, launcher, spec_of, root):
        for n in range(10):
            spec = spec_of("sh", "-c", "while :; do sleep 0.01; done", name=f"early{n}")
            handle = await launcher.submit(spec)
            await asyncio.sleep(n / 2000)
            await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
            seen = await see(launcher, spec, handle)
            # Not by KILL: the TERM reached it, however early it came.
            assert (seen.status, seen.exit_code) in (("exited", 143), ("gone", None))

    async def test_cancel_touches_no_other_job(self, launcher, spec_of):
        one, two = spec_of("sleep", "60", name="one"), spec_of("sleep", "60", name="two")
        first, second = await launcher.submit(one), await launcher.submit(two)
        await launcher.cancel(one, first, grace_seconds=PATIENCE)
        assert (await see(launcher, two, second)).status == "running"
        await launcher.cancel(two, second, grace_seconds=PATIENCE)

    async def test_cancelling_a_job_that_is_over_changes_nothing(self, launcher, spec_of):
        spec = spec_of("sh", "-c", "exit 5")
        seen = await run_to_end(launcher, spec)
        handle = await launcher.find(spec)
        await launcher.cancel(spec, handle)
        await launcher.cancel(spec, handle)
        assert await see(launcher, spec, handle) == seen

    async def test_the_whole_tree_ends_also_those_in_sessions_of_their_own(self, launcher, spec_of, root):
        note = 'echo $$ >"pid.$1"; exec sleep 61'
        tree = f"""
            stubborn() {{ sh -c 'trap "" TERM; {note}' sh "$1"; }}
            sh -c '{note}' sh plain &
            stubborn stubborn &
            sh -c 'sh -c "echo \\$\\$ >pid.grandchild; exec sleep 61" & wait' &
            setsid sh -c '{note}' sh session &
            setsid sh -c 'trap "" TERM; {note}' sh stubborn_session &
            wait
        """
        spec = spec_of("sh", "-c", tree)
        names = ("plain", "stubborn", "grandchild", "session", "stubborn_session")
        handle = await launcher.submit(spec)
        pids = {}
        for name in names:
            path = root / f"pid.{name}"
            await wait_until(lambda path=path: path.exists() and path.read_text().strip(), name)
            pids[name] = int(path.read_text())
        await launcher.cancel(spec, handle, grace_seconds=0.2)
        assert [name for name, pid in pids.items() if process_runs(pid)] == []


def process_runs(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
