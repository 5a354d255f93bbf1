"""How a launcher runs a job: what the job is given, and what is recorded of its end."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, LauncherTests, make_spec, run_to_end, see
from ends import ended

from prefect_campaign.model.errors import Refused

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


class RunningContract(LauncherTests):
    """A job gets exactly what its spec says, and its end is on record as it was."""

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
        # It lives until it was found: of a process that is over the handle would know less.
        script = 'cd "$CAMPAIGN_RUN_DIR"; until [ -e go ]; do sleep 0.02; done; echo hi >here'
        spec = make_spec(base / "e e" / "a1", "sh", "-c", script, workdir=str(base))
        handle = await launcher.submit(spec)
        assert await launcher.find(spec) == handle
        (Path(spec.run_dir) / "go").touch()
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
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
