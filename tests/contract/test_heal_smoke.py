"""Real processes that really fail, diagnosed and fixed until they succeed."""

import subprocess
import sys
from pathlib import Path

import pytest

from prefect_campaign.heal.diagnosis import diagnose
from prefect_campaign.heal.fixes import propose
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Evidence, FixRecord

GPU = """
import argparse
p = argparse.ArgumentParser()
p.add_argument("--batch-size", type=int)
p.add_argument("--grad-accum", type=int, default=1)
p.add_argument("--out")
a = p.parse_args()
class OutOfMemoryError(RuntimeError):
    pass
OutOfMemoryError.__module__ = "torch"
def forward(n):
    if n > 16:
        raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n}.00 MiB. GPU 0 has a total capacity of "
            "23.65 GiB of which 5.00 MiB is free.")
forward(a.batch_size)
"""

DIVERGE = """
import math, sys
lr = next(float(w.split("=")[1]) for w in sys.argv if w.startswith("optim.lr="))
clip = next((float(w.split("=")[1]) for w in sys.argv if w.startswith("optim.grad_clip=")), 0)
x = 1.0
for step in range(2000):
    loss = x * x
    if math.isnan(loss):
        raise FloatingPointError(f"loss is nan at step {step}")
    gradient = 2 * x
    if 0 < clip < abs(gradient):
        gradient = math.copysign(clip, gradient)
    x = x - lr * gradient
"""

HUNGRY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
fraction = float(sys.argv[sys.argv.index("--data-fraction") + 1])
data = bytearray(int((800 << 20) * fraction))
"""


def run(argv: tuple[str, ...]) -> Evidence:
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Evidence(code, stderr_tail=done.stderr.decode(errors="replace"))


def heal(script: str, folder: Path, *words: str) -> tuple[AttemptSpec, list[FixRecord], Diagnosis | None]:
    """Run, diagnose, fix and run again, until it succeeds (no diagnosis left) or nothing is left to try."""
    path = folder / "train.py"
    path.write_text(script)
    argv = (sys.executable, "-S", str(path), *words)
    spec = AttemptSpec("e", 1, "t-a1", argv, {}, str(folder), str(folder / "a1"), {}, 0)
    history: list[FixRecord] = []
    while (evidence := run(spec.argv)).exit_code != 0:
        diagnosis = diagnose(evidence)
        nth = spec.attempt + 1
        fix = propose(
            spec, diagnosis, history, flags={}, attempt=nth, token=f"t-a{nth}", run_dir=str(folder / f"a{nth}")
        )
        if fix is None:
            return spec, history, diagnosis
        spec = fix.spec
        history.append(fix.record)
    return spec, history, None


def test_out_of_gpu_memory_halves_until_it_fits(tmp_path: Path) -> None:
    out = str(tmp_path / "a1" / "log")
    spec, history, left = heal(GPU, tmp_path, "--batch-size", "64", "--grad-accum=1", "--out", out)
    assert left is None
    assert spec.argv[3:] == ("--batch-size", "16", "--grad-accum=4", "--out", str(tmp_path / "a3" / "log"))
    assert spec.comparable
    assert [r.signature for r in history] == ["cuda_oom", "cuda_oom"]
    assert spec.changes == ("batch_size 64 -> 32, grad_accum 1 -> 2", "batch_size 32 -> 16, grad_accum 2 -> 4")


def test_divergence_is_calmed_by_the_learning_rate(tmp_path: Path) -> None:
    spec, history, left = heal(DIVERGE, tmp_path, "optim.lr=30")
    assert left is None
    assert spec.argv[3:] == ("optim.lr=0.3",)
    assert not spec.comparable
    assert [r.fix for r in history] == ["learning_rate 30 -> 3.0", "learning_rate 3.0 -> 0.3"]


def test_divergence_is_calmed_by_clipping(tmp_path: Path) -> None:
    spec, history, left = heal(DIVERGE, tmp_path, "optim.lr=30", "optim.grad_clip=0")
    assert left is None
    assert spec.argv[3:] == ("optim.lr=3.0", "optim.grad_clip=1.0")
    assert [r.signature for r in history] == ["nan_loss"]


def test_out_of_host_memory_takes_less_data(tmp_path: Path) -> None:
    spec, history, left = heal(HUNGRY, tmp_path, "--data-fraction", "1.0")
    assert left is None
    assert spec.argv[3:] == ("--data-fraction", "0.5")
    assert [r.signature for r in history] == ["host_oom"]
    assert not spec.comparable


@pytest.mark.parametrize(
    ("script", "signature", "evidence"),
    [
        ("import no_such_module_here", "missing_module", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("f = open('/dev/full', 'w'); f.write('x'); f.flush()", "disk_full", "OSError: [Errno 28] No space left"),
        ("try: int('x')\nexcept ValueError: import no_such_mod", "missing_module", "ModuleNotFoundError"),
    ],
)
def test_what_no_fix_cures_is_named_and_left(tmp_path: Path, script: str, signature: str, evidence: str) -> None:
    _, history, left = heal(script, tmp_path, "--batch-size", "64")
    assert left
    assert left.signature == signature
    assert left.evidence.startswith(evidence)
    assert history == []


def test_a_kill_that_nothing_explains_is_tried_again_as_it_was(tmp_path: Path) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    spec, history, left = heal(script, tmp_path, "--batch-size", "64")
    assert left
    assert (left.signature, left.evidence[:23]) == ("host_oom", "exit code 137 (SIGKILL)")
    assert [r.fix for r in history] == ["retry unchanged"] * 2
    assert spec.comparable


def test_a_real_cause_is_found_behind_a_wrapping_error(tmp_path: Path) -> None:
    script = GPU.replace(
        "forward(a.batch_size)",
        "try:\n    forward(a.batch_size)\n"
        "except RuntimeError as error:\n    raise SystemError('epoch failed') from error",
    )
    spec, history, left = heal(script, tmp_path, "--batch-size", "32")
    assert left is None
    assert spec.argv[3:] == ("--batch-size", "16")
    assert len(history) == 1


def test_an_unknown_failure_is_tried_again_twice(tmp_path: Path) -> None:
    spec, history, left = heal("raise KeyError('accuracy')", tmp_path)
    assert left
    assert (left.signature, left.evidence) == ("unknown", "exit code 1: KeyError: 'accuracy'")
    assert [r.fix for r in history] == ["retry unchanged"] * 2
    assert spec.attempt == 3


def test_a_missing_program_and_a_terminated_one() -> None:
    assert diagnose(run(("sh", "-c", "no_such_program_here --lr 1"))).signature == "command_not_found"
    assert diagnose(run(("sh", "-c", "kill -TERM $$"))).evidence == "exit code 143 (SIGTERM)"
