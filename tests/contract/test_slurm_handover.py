"""What the Slurm launcher hands over: options, scripts, settings, manifests."""

import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from contract.launchers import make_spec

from prefect_campaign.launch.slurm.files import read_trace
from prefect_campaign.launch.slurm.manifest import Manifest, Manifests, array_name
from prefect_campaign.launch.slurm.script import array_script, attempt_script, sbatch_options, shape_of
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.errors import Refused, Transient


def test_options_say_what_the_attempt_wants(tmp_path):
    spec = make_spec(tmp_path / "runs/e/a1", "true", gpu_count=2, cpus=4, memory_mb=2000, wall_minutes=90, disk_mb=5)
    settings = SlurmSettings(
        "lab", partition="gpu", account="a", qos="q", constraint="x&y", gpu_type="a100", exclude="n9"
    )
    settings = replace(settings, directives=("--mail-type=FAIL",), array_limit=3)
    options = sbatch_options(settings, shape_of(spec, settings), name="n", mark="pc:1", output="/o", tasks=10)
    wanted = (
        "--array=0-9%3 --mem=2000M --time=90 --gres=gpu:a100:2 --cpus-per-task=4 --tmp=5M --partition=gpu --account=a"
    )
    wanted += " --qos=q --constraint=x&y --exclude=n9 --mail-type=FAIL --comment=pc:1 --requeue --job-name=n"
    assert set(wanted.split()) <= set(options)
    plain = replace(settings, gpu_request="gpus-per-node", gpu_type="", requeue=False)
    options = sbatch_options(plain, shape_of(spec, plain), name="n", mark="pc:1", output="/o")
    assert {"--gpus-per-node=2", "--no-requeue"} <= set(options)
    assert not any(option.startswith("--array") for option in options)


def test_options_of_sbatch_that_are_like_ours_are_not_ours():
    given = ("--container=/bundle", "--wait-all-nodes=1", "--comment=mine", "--mem=0", "--nice", "--exclusive")
    assert SlurmSettings("lab", directives=given).directives == given


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Lab"),
        ("partition", "gpu; rm -rf /"),
        ("account", "-x"),
        ("constraint", "a b"),
        ("exclude", "n1 n2"),
        ("directives", ("--array=1-3",)),
        ("directives", ("--job-name=x",)),
        ("directives", ("--partition=x",)),
        ("directives", ("--mail-type=FAIL", "--arr=0-9")),
        ("directives", ("--a=0-9",)),
        ("directives", ("--outp=x",)),
        ("directives", ("--part=x",)),
        ("directives", ("--comm=x",)),
        ("directives", ("-a0-9",)),
        ("directives", ("-o/dev/null",)),
        ("directives", ("-Jx",)),
        ("directives", ("-H",)),
        ("directives", ("mail",)),
        ("directives", ("--mail-user=a\nb",)),
        ("modules", ("cuda; rm",)),
        ("env", {"A B": "x"}),
        ("binds", ("/a,/b",)),
        ("programs", "bin"),
        ("max_jobs", 0),
        ("factor", 0.0),
    ],
)
def test_a_setting_that_can_never_work_is_refused_by_its_name(field, value):
    with pytest.raises(Refused, match=f": {field}: "):
        SlurmSettings(**{"name": "lab", field: value})


def test_modules_prologue_and_apptainer_come_before_the_command(tmp_path):
    spec = make_spec(tmp_path / "runs/e/a1", "python", "train.py", gpu_count=1)
    settings = SlurmSettings("lab", modules=("cuda/12.4",), prologue=("ulimit -n 4096",), apptainer_image="/i.sif")
    text = attempt_script(spec, settings)
    assert text.index("module load cuda/12.4") < text.index("ulimit -n 4096") < text.index("exec apptainer exec --pwd")
    assert "--nv /i.sif python train.py" in text
    assert "CUDA_VISIBLE_DEVICES" not in text
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(("line", "code"), [("false", 126), ("true # fine", 0), ("export X=1", 0)])
def test_a_prologue_that_fails_fails_the_experiment(tmp_path, line, code):
    (tmp_path / "runs/e/a1").mkdir(parents=True)
    spec = make_spec(tmp_path / "runs/e/a1", "true", workdir=str(tmp_path))
    text = attempt_script(spec, SlurmSettings("lab", prologue=(line,)))
    done = subprocess.run(
        ["sh"], input=text, text=True, env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7"}, check=False
    )
    assert done.returncode == code


def run_job(text: str, job: str, restart: int) -> int:
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
    return subprocess.run(["sh"], input=text, text=True, env=env, check=False).returncode


def test_only_the_same_job_that_was_stopped_runs_again(tmp_path):
    run_dir = tmp_path / "runs/e/a1"
    run_dir.mkdir(parents=True)
    text = attempt_script(make_spec(run_dir, "sh", "-c", "exit 3", workdir=str(tmp_path)), SlurmSettings("lab"))
    assert run_job(text, "7", 0) == 3
    assert run_job(text, "7", 1) == 75  # it ended by itself
    (run_dir / "claim/stop").touch()
    assert run_job(text, "8", 0) == 75  # another job
    assert run_job(text, "7", 1) == 3  # was stopped: its own run dir again
    (run_dir / "status.json").unlink()
    assert run_job(text, "7", 1) == 75  # that run is there already
    assert run_job(text, "7", 2) == 3  # its node died before it could record anything


def test_a_task_reads_its_line_of_the_list(tmp_path):
    runs = tmp_path / "it's \n here"
    for name in ("e 0", "e1"):
        (runs / name / "a1").mkdir(parents=True)
        (runs / name / "a1" / "job.sh").write_text(f"echo {name}")
    (tmp_path / "list").write_text("e 0/a1\ne1/a1\n")
    text = array_script("n", str(runs), str(tmp_path / "list"))
    said = [
        subprocess.run(["sh"], input=text, text=True, capture_output=True, env={"SLURM_ARRAY_TASK_ID": n}, check=False)
        for n in ("0", "1", "2")
    ]
    assert [(one.returncode, one.stdout) for one in said] == [(0, "e 0\n"), (0, "e1\n"), (73, "")]
    assert "line 3" in said[2].stderr


# -- manifests ------------------------------------------------------------------------------------------------------


def manifest(name: str, *tokens: str, at: float = 1.0) -> Manifest:
    return Manifest(name, name, "pc:1", at, tokens, array=True)


async def test_a_token_is_found_in_the_manifests_of_another_process(tmp_path):
    first, second, runs = Manifests("lab"), Manifests("lab"), str(tmp_path)
    assert (await second.read(runs)).of("b") == []
    first.write(runs, manifest("x", "a", "b"))
    (entry,) = (await second.read(runs)).of("b")
    assert (entry.manifest.name, entry.index, entry.manifest.job_id) == ("x", 1, None)
    await first.answered(runs, "x", "77")
    assert (await second.read(runs)).of("b")[0].manifest.job_id == "77"
    first.write(runs, manifest("y", "b", at=2.0))
    await first.answered(runs, "y", None)
    assert [entry.manifest.name for entry in (await second.read(runs)).of("b")] == ["x"]  # y came to nothing
    await first.answered(runs, "y", "78")
    assert [entry.manifest.name for entry in (await second.read(runs)).of("b")] == ["x", "y"]  # but it turned up
    assert (await Manifests("other").read(runs)).of("b") == []


async def test_what_was_answered_is_not_read_again_and_nothing_is_read_in_the_event_loop(tmp_path, monkeypatch):
    store, runs, threads = Manifests("lab"), str(tmp_path), []
    store.write(runs, manifest("x", "a"))
    await store.answered(runs, "x", "77")

    def read(path: Path, *options):
        threads.append(threading.current_thread())
        return path.read_bytes().decode()

    monkeypatch.setattr(Path, "read_text", read)
    for n in range(3):
        store.write(runs, manifest(f"y{n}", "b", at=2.0))  # so that the folder is young
        assert (await store.read(runs)).of("a")[0].manifest.job_id == "77"
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_an_answer_is_written_beside_the_event_loop(tmp_path, monkeypatch):
    store, runs, threads = Manifests("lab"), str(tmp_path), []
    store.write(runs, manifest("x", "a"))
    monkeypatch.setattr(os, "fsync", lambda fd: threads.append(threading.current_thread()))
    await store.answered(runs, "x", "77")
    assert threads
    assert threading.main_thread() not in threads


async def test_a_damaged_manifest_is_named_and_nothing_is_guessed(tmp_path):
    store = Manifests("lab")
    store.write(str(tmp_path), manifest("x", "a"))
    path: Path = store.folder(str(tmp_path)) / "x.json"
    path.write_text("{")
    with pytest.raises(Transient, match=str(path)):
        await Manifests("lab").read(str(tmp_path))


def test_names_of_arrays_are_unlike_each_other_and_safe():
    both = (["pc-d-a-a1", "pc-d-b-a1"], ["pc-d-a-a1"])
    names = {array_name(tokens, runs, at) for tokens in both for runs in ("/a", "/b") for at in (1.0, 2.0)}
    assert len(names) == 8
    assert all(name.startswith("pc-d") and len(name) <= 64 and "," not in name for name in names)


def test_a_command_that_died_of_a_signal_may_run_again_if_its_scheduler_says_so(tmp_path):
    run_dir = tmp_path / "runs/e/a1"
    run_dir.mkdir(parents=True)
    spec = make_spec(run_dir, "sh", "-c", "kill -TERM $$", workdir=str(tmp_path))
    text = attempt_script(spec, SlurmSettings("lab"))
    assert run_job(text, "7", 0) == 143
    assert read_trace(spec).stopped
    assert run_job(text, "8", 0) == 75
    assert run_job(text, "7", 1) == 143
    assert (run_dir / "status.json.before-1").exists()
