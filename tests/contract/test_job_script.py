"""The job script on its own, run by every POSIX sh that is there."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from contract.launchers import make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_campaign.launch.script import DUPLICATE_EXIT, Scheduled, job_environment, job_script
from prefect_campaign.launch.slurm.files import read_trace
from prefect_campaign.model.errors import Refused

QUEUED = Scheduled("${TEST_JOB:-}", "${TEST_TRY:-0}")

SHELLS = [
    pytest.param(argv, id=argv[0])
    for argv in (["dash"], ["bash", "--posix"], ["busybox", "sh"])
    if shutil.which(argv[0])
]


def prepare(spec, scheduled=None) -> Path:
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    script = run_dir / "job.sh"
    script.write_bytes(job_script(spec, scheduled=scheduled).encode("utf-8", "surrogateescape"))
    return script


def start(shell, spec, *, scheduled=None, **options) -> subprocess.Popen:
    return subprocess.Popen([*shell, str(prepare(spec, scheduled))], start_new_session=True, **options)


def record_of(spec):
    path = Path(spec.run_dir) / "status.json"
    return json.loads(path.read_text()) if path.exists() else None


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.002)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_record_names_code_and_token_and_the_script_exits_likewise(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "exit 9", token='a "quoted" $token')
    assert start(shell, spec).wait() == 9
    assert record_of(spec) == {"state": "exited", "exit_code": 9, "token": 'a "quoted" $token'}
    assert sorted(os.listdir(spec.run_dir)) == ["claim", "job.sh", "status.json", "stderr.log", "stdout.log"]


@pytest.mark.parametrize("shell", SHELLS)
def test_of_many_scripts_at_once_one_runs_and_the_others_touch_nothing(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", "echo $$ >>runs; until [ -e go ]; do sleep 0.01; done")
    script = prepare(spec)
    racers = [subprocess.Popen([*shell, str(script)], start_new_session=True) for _ in range(8)]
    wait_for(tmp_path / "runs")
    deadline = time.monotonic() + 20
    while sum(racer.poll() is None for racer in racers) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    (winner,) = (racer for racer in racers if racer.poll() is None)
    claim = Path(spec.run_dir) / "claim"
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path(spec.run_dir).rglob("*") if p.is_file()}
    assert subprocess.run([*shell, str(script)], check=False, capture_output=True).returncode == 75
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in Path(spec.run_dir).rglob("*") if p.is_file()}
    assert after == before
    assert int((claim / "pid").read_text()) == winner.pid
    (tmp_path / "go").touch()
    assert sorted(racer.wait() for racer in racers) == [0] + [75] * 7
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_warning_reaches_the_command_as_it_is_and_ends_nothing(shell, name, tmp_path):
    code = f"trap 'echo warned' {name}; touch started; until [ -e go ]; do sleep 0.005; done; exit 3"
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", code)
    job = start(shell, spec)
    wait_for(tmp_path / "started")
    for _ in range(2):
        os.kill(job.pid, getattr(signal, f"SIG{name}"))
        time.sleep(0.05)
    (tmp_path / "go").touch()
    assert job.wait() == 3
    assert not (tmp_path / "e/a1/claim/stop").exists()
    assert "warned" in (tmp_path / "e/a1/stdout.log").read_text()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_script_alone_reaches_the_command_and_the_code_is_recorded(shell, number, tmp_path):
    code = "trap 'exit 21' TERM; touch started; while :; do sleep 0.005; done"
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", code)
    job = start(shell, spec)
    wait_for(tmp_path / "started")
    os.kill(job.pid, number)
    assert job.wait() == 21
    assert record_of(spec)["exit_code"] == 21


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_that_outlives_many_signals_is_waited_for(shell, tmp_path):
    code = "trap 'echo x >>got' TERM; touch started; until [ -e go ]; do sleep 0.005; done; exit 22"
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", code)
    job = start(shell, spec)
    wait_for(tmp_path / "started")
    for _ in range(5):
        os.kill(job.pid, signal.SIGTERM)
        time.sleep(0.01)
    wait_for(tmp_path / "got")
    assert job.poll() is None
    (tmp_path / "go").touch()
    assert job.wait() == 22
    assert record_of(spec)["exit_code"] == 22


@pytest.mark.parametrize("shell", SHELLS)
def test_term_at_any_moment_never_gives_a_false_record(shell, tmp_path):
    for n in range(15):
        spec = make_spec(tmp_path / f"e{n}/a1", "true")
        job = start(shell, spec)
        time.sleep(n * 0.0004)
        job.terminate()
        code, record = job.wait(20), record_of(spec)
        if record is not None:
            assert record["exit_code"] in (0, 143)
            assert code == record["exit_code"]
        else:
            assert code != 0


@pytest.mark.parametrize("shell", SHELLS)
def test_a_record_that_cannot_be_written_is_no_success(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    Path(spec.run_dir).mkdir(parents=True)
    (Path(spec.run_dir) / "status.json.new").symlink_to("/dev/full")
    assert start(shell, spec, stderr=subprocess.DEVNULL).wait() == 74
    assert record_of(spec) is None


@pytest.mark.parametrize("shell", SHELLS)
def test_a_run_dir_that_cannot_be_claimed_runs_nothing(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "touch", str(tmp_path / "ran"))
    script = prepare(spec)
    (tmp_path / "elsewhere").mkdir()
    moved = script.rename(tmp_path / "elsewhere" / "job.sh")
    Path(spec.run_dir).rmdir()
    assert subprocess.run([*shell, str(moved)], check=False).returncode == 73
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_variables_of_the_spec_cannot_break_the_script_itself(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "/bin/sh", "-c", "exit 3", env={"PATH": "/nowhere", "pc_run": "/x", "IFS": "/"})
    assert start(shell, spec).wait() == 3
    assert record_of(spec)["exit_code"] == 3


@pytest.mark.parametrize("shell", SHELLS)
def test_inherited_variables_are_handed_on_unchanged(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "env", "-0")
    inherited = {**os.environ, "run": "1", "token": "secret", "code": "2", "multi": "a\nb", "CDPATH": "/tmp"}
    assert start(shell, spec, env=inherited).wait() == 0
    items = (Path(spec.run_dir) / "stdout.log").read_text().split("\0")
    found = dict(item.split("=", 1) for item in items if item)
    assert {k: found.get(k) for k in inherited} | {"PWD": 0, "OLDPWD": 0, "SHLVL": 0, "_": 0} == inherited | {
        "PWD": 0,
        "OLDPWD": 0,
        "SHLVL": 0,
        "_": 0,
    }
    assert "secret" not in (Path(spec.run_dir) / "job.sh").read_text()


def test_a_builtin_or_function_of_the_shell_never_stands_in_for_the_program(tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("true", "pc_record", "wait"):
        (fake / name).write_text("#!/bin/sh\nexit 33\n")
        (fake / name).chmod(0o755)
        spec = make_spec(tmp_path / name / "a1", name, "0", env={"PATH": f"{fake}:{os.environ['PATH']}"})
        assert start(["sh"], spec).wait() == 33


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(TEXT, max_size=5), value=TEXT, number=st.integers(0, 10**9))
def test_any_text_arrives_as_it_is(words, value, number, tmp_path):
    run_dir = tmp_path / f"{number}-{abs(hash((tuple(words), value)))}" / "a1"
    spec = make_spec(run_dir, "sh", "-c", 'printf "%s\\0" "$VALUE" "$@"', "sh", *words, env={"VALUE": value})
    spec_dir = Path(spec.run_dir)
    if spec_dir.exists():
        shutil.rmtree(spec_dir)
    assert start(["sh"], spec).wait() == 0
    assert (spec_dir / "stdout.log").read_bytes().decode().split("\0")[:-1] == [value, *words]


def test_bytes_that_are_not_utf8_arrive_as_they_are(tmp_path):
    word = os.fsdecode(b"caf\xe9 \xff")
    spec = make_spec(tmp_path / "e/a1", "printf", "%s", word)
    assert start(["sh"], spec).wait() == 0
    assert (Path(spec.run_dir) / "stdout.log").read_bytes() == b"caf\xe9 \xff"


def test_the_environment_of_the_spec_wins_over_defaults_only(tmp_path):
    env = {"WANDB_RUN_ID": "mine", "CAMPAIGN_RUN_DIR": "/stolen", "X": "1"}
    spec = make_spec(tmp_path / "e/a1", "true", env=env)
    found = job_environment(spec)
    assert (found["WANDB_RUN_ID"], found["CAMPAIGN_RUN_DIR"], found["X"]) == ("mine", spec.run_dir, "1")
    assert found["WANDB_DIR"] == spec.run_dir


@pytest.mark.parametrize(("gpus", "seen"), [((), ""), (("GPU-a",), "GPU-a"), (("GPU-b", "GPU-a"), "GPU-b,GPU-a")])
def test_a_job_sees_the_gpus_that_are_leased_for_it_whatever_anybody_else_sets(gpus, seen, tmp_path):
    others = {"CUDA_VISIBLE_DEVICES": "0,1,2", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    code = 'printf "%s|%s" "${CUDA_VISIBLE_DEVICES-unset}" "$CUDA_DEVICE_ORDER"'
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", code, gpus=gpus, env=others)
    assert start(["sh"], spec, env={**os.environ, "CUDA_VISIBLE_DEVICES": "7"}).wait() == 0
    assert (Path(spec.run_dir) / "stdout.log").read_text() == f"{seen}|PCI_BUS_ID"


@pytest.mark.parametrize("argv", [(), ("",), ("-rf", "x")])
def test_a_command_without_a_program_is_refused(argv, tmp_path):
    with pytest.raises(Refused, match="command"):
        job_script(make_spec(tmp_path / "e/a1", *argv))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_whose_scheduler_gives_no_id_still_leaves_its_record(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    env = {name: value for name, value in os.environ.items() if name != "TEST_JOB"}
    assert start(shell, spec, scheduled=QUEUED, env=env).wait() == 0
    assert record_of(spec) == {"state": "exited", "exit_code": 0, "token": spec.token}
    assert Path(spec.run_dir, "claim/job").read_text() == "- 0\n"
    assert read_trace(spec).claimed_by == ""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("end", ["trap 'exit 0' TERM", ":"], ids=["caught", "killed"])
def test_the_record_of_a_stopped_run_of_a_queued_job_says_so_itself(shell, end, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", f"{end}; : >up; while :; do sleep 0.02; done")
    job = start(shell, spec, scheduled=QUEUED, env={**os.environ, "TEST_JOB": "7"})
    wait_for(Path(spec.workdir) / "up")
    job.terminate()
    assert job.wait() == record_of(spec)["exit_code"] == (0 if "trap" in end else 143)
    assert record_of(spec)["stopped"] is True
    Path(spec.run_dir, "claim/stop").unlink()  # as a client of a network file system may see it
    assert read_trace(spec).stopped


@pytest.mark.parametrize("shell", SHELLS)
def test_a_run_that_was_given_up_does_not_mark_the_present_one_as_stopped(shell, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "sh", "-c", ": >up; while :; do sleep 0.02; done")
    job = start(shell, spec, scheduled=QUEUED, env={**os.environ, "TEST_JOB": "7"})
    wait_for(Path(spec.workdir) / "up")
    Path(spec.run_dir, "claim/job").write_text("7 1\n")
    job.terminate()
    assert job.wait() == DUPLICATE_EXIT
    assert record_of(spec) is None
    assert not Path(spec.run_dir, "claim/stop").exists()
