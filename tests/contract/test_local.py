"""What only the local launcher has: identities, adoption after a crash, zombies, and hostile surroundings."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, process_runs, run_to_end, see, wait_until
from ends import ended

from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import read_process
from prefect_campaign.model.errors import Transient, Unknown
from prefect_campaign.model.records import AttemptSpec


@pytest.fixture
def launcher():
    made = LocalLauncher()
    yield made
    made.close()


def starter(spec: AttemptSpec, then: str, **env: str) -> subprocess.CompletedProcess:
    """Submit in another Python process, which then runs one more line."""
    code = f"""
        import asyncio, json, os, sys
        from prefect_campaign.launch.local import LocalLauncher
        from prefect_campaign.model.records import AttemptSpec
        stored = json.loads(sys.argv[1])
        spec = AttemptSpec(**{{**stored, "argv": tuple(stored["argv"])}})
        async def main():
            handle = await LocalLauncher().submit(spec)
            print(json.dumps(handle.__dict__), flush=True)
            {then}
        asyncio.run(main())
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), json.dumps(dataclasses.asdict(spec))],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_job_survives_the_kill_of_its_starter_and_is_adopted(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 8")
    done = starter(spec, "os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    handle = await launcher.find(spec)
    assert handle is not None
    assert handle.__dict__ == json.loads(done.stdout)
    assert (await see(launcher, spec, handle)).status == "running"
    over = asyncio.create_task(ended(launcher, spec, handle))
    (tmp_path / "go").touch()
    await asyncio.wait_for(over, PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 8


async def test_a_crash_between_spawn_and_record_loses_no_job(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "echo run >>runs; until [ -e go ]; do sleep 0.01; done")
    done = starter(spec, "pass", CAMPAIGN_CRASH_AT="job_spawned")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    handle = await launcher.find(spec)
    assert handle is not None
    assert (await see(launcher, spec, handle)).status == "running"
    await wait_until((tmp_path / "runs").exists)
    with pytest.raises(Unknown):
        await launcher.submit(spec)
    (tmp_path / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 0
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_a_job_that_has_not_claimed_yet_is_found_by_its_command_line(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True)
    (run_dir / "job.sh").write_text("read line\n")
    job = subprocess.Popen(["/bin/sh", str(run_dir / "job.sh")], stdin=subprocess.PIPE, start_new_session=True)
    # Neither a lookalike nor a program that only mentions the script is the job.
    other = subprocess.Popen(["/bin/sh", f"{run_dir}/job.shell", "-"], stderr=subprocess.DEVNULL)
    mention = subprocess.Popen(
        ["tail", "-f", "/dev/null", str(run_dir / "job.sh")], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        handle = await launcher.find(spec)
        assert handle is not None
        assert handle.job_id == str(job.pid)
    finally:
        mention.kill()
        mention.wait()
        other.wait()
        job.communicate()
    assert await launcher.find(spec) is None


async def test_a_claim_without_a_pid_or_process_counts_as_submitted(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    (Path(spec.run_dir) / "claim").mkdir(parents=True)
    for content in (None, "", "garbage", "-1", "9" * 30):
        if content is not None:
            (Path(spec.run_dir) / "claim/pid").write_text(content)
        handle = await launcher.find(spec)
        assert handle is not None
        assert (await see(launcher, spec, handle)).status == "gone"
        await launcher.cancel(spec, handle)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)


async def test_the_loser_of_a_double_submission_leads_to_the_winner(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 5")
    handle = await launcher.submit(spec)
    await wait_until((Path(spec.run_dir) / "claim/pid").exists)
    loser = subprocess.Popen(["/bin/sh", f"{spec.run_dir}/job.sh"], start_new_session=True)
    ticks = read_process(loser.pid).start_ticks
    wrong = dataclasses.replace(handle, detail={**handle.detail, "pid": loser.pid, "start_ticks": ticks})
    assert loser.wait() == 75
    other = LocalLauncher()
    assert (await see(other, spec, wrong)).status == "running"
    over = asyncio.create_task(ended(other, spec, wrong))
    await asyncio.sleep(0.02)
    assert not over.done()
    (tmp_path / "go").touch()
    await asyncio.wait_for(over, PATIENCE)
    assert (await see(other, spec, wrong)).exit_code == 5


async def test_a_pid_that_belongs_to_another_process_is_never_signalled(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    (Path(spec.run_dir) / "status.json").unlink()
    await asyncio.sleep(0.03)  # more than a clock tick: the kernel gives no pid out again that soon either
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        detail = {**handle.detail, "pid": stranger.pid}
        (Path(spec.run_dir) / "claim/pid").write_text(f"{stranger.pid}\n")
        reused = dataclasses.replace(handle, job_id=str(stranger.pid), detail=detail)
        assert (await see(launcher, spec, reused)).status == "gone"
        await launcher.cancel(spec, reused, grace_seconds=0.05)
        found = await launcher.find(spec)
        assert (await see(launcher, spec, found)).status == "gone"
        await launcher.cancel(spec, found, grace_seconds=0.05)
        right_time = {**detail, "start_ticks": read_process(stranger.pid).start_ticks, "boot_id": "another boot"}
        rebooted = dataclasses.replace(reused, detail=right_time)
        assert (await see(launcher, spec, rebooted)).status == "gone"
        await launcher.cancel(spec, rebooted, grace_seconds=0.05)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_job_of_another_host_is_unreachable_not_gone(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    away = dataclasses.replace(handle, host="elsewhere", detail={**handle.detail, "boot_id": "theirs"})
    assert (await see(launcher, spec, away)).exit_code == 0
    (Path(spec.run_dir) / "status.json").unlink()
    assert (await see(launcher, spec, away)).status == "unreachable"
    with pytest.raises(Transient, match="elsewhere"):
        await launcher.cancel(spec, away)
    told: list[str] = []
    launcher.watch(spec, away, told.append)
    await asyncio.sleep(0.02)
    assert told == []


async def test_a_job_killed_with_its_script_is_gone(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "touch started; exec sleep 60")
    handle = await launcher.submit(spec)
    await wait_until((tmp_path / "started").exists)
    os.killpg(handle.detail["pid"], signal.SIGKILL)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code) == ("gone", None)
    assert seen.started_at is not None


async def test_a_command_that_outlives_its_killed_script_still_counts_as_running(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "echo $$ >pid; until [ -e go ]; do sleep 0.01; done")
    handle = await launcher.submit(spec)
    await wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    told: list[str] = []
    launcher.watch(spec, handle, told.append)
    os.kill(handle.detail["pid"], signal.SIGKILL)
    await wait_until(lambda: read_process(handle.detail["pid"]) is None, "reaped")
    seen = await see(launcher, spec, handle)
    assert seen.status == "running"
    assert "live on" in seen.detail
    assert told == []
    (tmp_path / "go").touch()
    await wait_until(lambda: told)
    assert (await see(launcher, spec, handle)).status == "gone"


async def test_what_a_killed_script_left_can_be_cancelled(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "echo $$ >pid; exec sleep 60")
    handle = await launcher.submit(spec)
    await wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(handle.detail["pid"], signal.SIGKILL)
    await wait_until(lambda: read_process(handle.detail["pid"]) is None, "reaped")
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    assert not process_runs(int((tmp_path / "pid").read_text()))


async def test_children_are_reaped_though_nobody_watches(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await wait_until(lambda: read_process(handle.detail["pid"]) is None, "reaped")


async def test_many_jobs_leave_no_process_and_no_file_descriptor(launcher, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    specs = [make_spec(tmp_path / f"e{n}/a1", "true", token=f"t{n}") for n in range(20)]
    handles = [await launcher.submit(spec) for spec in specs]
    await asyncio.gather(*(ended(launcher, *pair) for pair in zip(specs, handles, strict=True)))
    assert [handle.job_id for handle in handles if read_process(handle.detail["pid"])] == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_closed_launchers_children_are_reaped_by_the_next_start(launcher, tmp_path):
    first, spec = LocalLauncher(), make_spec(tmp_path / "e/a1", "true")
    handle = await first.submit(spec)
    first.close()
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    await wait_until(lambda: not process_runs(handle.detail["pid"]))
    await run_to_end(launcher, make_spec(tmp_path / "f/a1", "true", token="t"))
    assert read_process(handle.detail["pid"]) is None


async def test_a_job_inherits_no_open_file_and_no_terminal(launcher, tmp_path):
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "ls /proc/$$/fd; readlink /proc/$$/fd/0; ps -o tty= -p $$")
    try:
        assert (await run_to_end(launcher, spec)).exit_code == 0
    finally:
        os.close(leak)
    assert launcher.logs(spec)[0].read_text().split() == ["0", "1", "2", "/dev/null", "?"]
