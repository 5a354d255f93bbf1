"""The digits example: its script really trains, and its spec is a good first spec."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prefect_campaign.model.load import check_command, load_campaign
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.template import words_of

pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install prefect-campaign[examples]")

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
SCRIPT = FOLDER / "train.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def train() -> ModuleType:
    """The script as a module: most tests call its main(), which spares an interpreter start each."""
    spec = importlib.util.spec_from_file_location("digits_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)], env=ENV, capture_output=True, text=True, timeout=60, check=False
    )


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def words(method: str, run_dir: Path, *more: object, dataset: str = "parity", seed: int = 0) -> list[str]:
    fixed = ["--method", method, "--dataset", dataset, "--seed", seed, "--run-dir", run_dir]
    return [str(w) for w in (*fixed, *more)]


# --- the script -----------------------------------------------------------------------------------------------------


def test_same_seed_same_numbers_and_another_seed_others(train: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        assert train.main(words("mlp", tmp_path / name, "--epochs", 3, seed=seed)) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "again")
    assert rows(tmp_path / "a") != rows(tmp_path / "other")


def test_metrics_have_one_row_an_epoch_and_the_result_last(train: ModuleType, tmp_path: Path) -> None:
    train.main(words("mlp", tmp_path, "--epochs", 3))
    *epochs, final = rows(tmp_path)
    assert [r["step"] for r in epochs] == [1, 2, 3]
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]
    assert set(final) == {"final/accuracy", "final/f1", "final/val_accuracy"}
    assert 0.85 < final["final/accuracy"] <= 1  # it learns: chance is 0.5


@pytest.mark.parametrize("method", ["logreg", "ridge", "svm", "forest", "mlp", "mlp-noscale"])
def test_every_method_runs_on_tabular_data(train: ModuleType, tmp_path: Path, method: str) -> None:
    assert train.main(words(method, tmp_path, "--epochs", 2, "--data-fraction", 0.5, dataset="wine")) == 0
    assert 0 < rows(tmp_path)[-1]["final/f1"] <= 1


def test_all_methods_see_the_same_split(train: ModuleType) -> None:
    """The test part depends on seed and data set alone: neither on the method nor on the share of training data."""
    whole, part = train.load_data("shifted", 3, 1.0), train.load_data("shifted", 3, 0.1)
    np.testing.assert_array_equal(whole.test[0], part.test[0])
    assert len(part.train[0]) < len(whole.train[0]) / 5
    assert not np.array_equal(whole.test[1], train.load_data("shifted", 4, 1.0).test[1])


def test_a_tiny_share_of_the_data_still_has_every_class(train: ModuleType) -> None:
    assert len(np.unique(train.load_data("digits", 0, 1e-9).train[1])) == 10


def test_standardising_looks_at_the_training_part_only(train: ModuleType) -> None:
    data = train.load_data("cancer", 0, 1.0)
    before, after = data.test[0], train.standardised(data)
    np.testing.assert_allclose(after.train[0].mean(0), 0, atol=1e-9)
    expected = (before - data.train[0].mean(0)) / data.train[0].std(0)
    np.testing.assert_allclose(after.test[0], expected)


def test_gradient_is_that_of_the_loss(train: ModuleType) -> None:
    """One step from rest moves each weight by -lr x gradient; compared with finite differences of the loss."""
    rng = np.random.default_rng(0)
    x, y, lr, eps = rng.normal(size=(5, 4)), np.array([0, 1, 2, 1, 0]), 1.0, 1e-6

    def objective(model: object) -> float:
        decay = sum((w**2).sum() for w in model.weights[::2])  # type: ignore[attr-defined]
        logits = model.forward(x)[1]  # type: ignore[attr-defined]
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(-log_p[np.arange(5), y].mean() + train.WEIGHT_DECAY / 2 * decay)

    stepped = train.MLP(4, 3, 0)
    stepped.step(x, y, lr)
    for i, index in enumerate([(1, 2), (3,), (4, 1), (0,)]):
        up, down, start = train.MLP(4, 3, 0), train.MLP(4, 3, 0), train.MLP(4, 3, 0)
        up.weights[i][index] += eps
        down.weights[i][index] -= eps
        slope = (objective(up) - objective(down)) / (2 * eps)
        moved = (start.weights[i] - stepped.weights[i])[index] / lr
        assert moved == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_dry_run_trains_two_batches_and_leaves_no_result(tmp_path: Path) -> None:
    done = run(*words("mlp", tmp_path, "--dry-run", "--resume"))
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path)) == 1
    assert "final/accuracy" not in rows(tmp_path)[0]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("method", ["ridge", "logreg", "svm", "forest"])
def test_dry_run_of_a_fitted_method(train: ModuleType, tmp_path: Path, method: str) -> None:
    assert train.main(words(method, tmp_path, "--dry-run", "--batch-size", 1)) == 0
    assert [r["step"] for r in rows(tmp_path)] == [1]


def test_killed_and_resumed_ends_with_the_same_numbers(train: ModuleType, tmp_path: Path) -> None:
    epochs = 100
    checkpoints = tmp_path / "checkpoints"
    args = ["--epochs", epochs, "--checkpoint-dir", checkpoints, "--resume"]
    command = [sys.executable, str(SCRIPT), *words("mlp", tmp_path / "a1", *args)]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(checkpoints.glob("epoch-*.npz")):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL

    assert train.main(words("mlp", tmp_path / "a2", *args)) == 0
    assert train.main(words("mlp", tmp_path / "whole", "--epochs", epochs)) == 0
    resumed, whole = rows(tmp_path / "a2"), rows(tmp_path / "whole")
    assert 1 < len(resumed) < len(whole)
    assert resumed == whole[-len(resumed) :]


def test_resuming_a_finished_run_only_reports_its_result(train: ModuleType, tmp_path: Path) -> None:
    args = ["--epochs", 5, "--checkpoint-dir", tmp_path / "c", "--resume"]
    for name in ("a1", "a2"):
        assert train.main(words("mlp", tmp_path / name, *args)) == 0
    assert rows(tmp_path / "a2") == rows(tmp_path / "a1")[-1:]
    assert [p.name for p in train.checkpoints(tmp_path / "c")] == [f"epoch-000{i}.npz" for i in (3, 4, 5)]


def test_without_resume_checkpoints_are_ignored(train: ModuleType, tmp_path: Path) -> None:
    args = ["--epochs", 2, "--checkpoint-dir", tmp_path / "c"]
    for name in ("a1", "a2"):
        assert train.main(words("mlp", tmp_path / name, *args)) == 0
    assert rows(tmp_path / "a2") == rows(tmp_path / "a1")


def test_a_damaged_checkpoint_fails_and_is_not_taken_for_a_fresh_start(train: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "epoch-0001.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(Exception, match=r"(?i)zip|pickle"):
        train.main(words("mlp", tmp_path, "--epochs", 2, "--checkpoint-dir", tmp_path, "--resume"))


def test_diverging_training_says_so_and_fails(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(words("mlp", tmp_path, "--epochs", 5, "--lr", 1e100)) == 1
    assert capsys.readouterr().err == "FloatingPointError: loss is nan at epoch 1\n"
    assert np.isnan(rows(tmp_path)[-1]["train/loss"])
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--dataset", "mnist"),
        ("--method", "../x"),
        ("--seed", "-1"),
        ("--epochs", "0"),
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--batch-size", "0"),
        ("--data-fraction", "1.5"),
    ],
)
def test_bad_arguments_end_with_code_2_and_name_the_flag(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(words("mlp", tmp_path / "run", flag, value))
    assert ended.value.code == 2
    assert f"argument {flag}:" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unknown_dataset_from_outside(tmp_path: Path) -> None:
    done = run(*words("mlp", tmp_path, dataset="mnist"))
    assert done.returncode == 2
    assert "mnist" in done.stderr


# --- the spec -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_spec_plans_a_pilot_and_a_full_phase() -> None:
    campaign = load_campaign(FOLDER / "campaign.yaml")
    plan = make_plan(campaign)
    assert {s.name: len(plan.of_stage(s.name)) for s in plan.stages} == {"minimal": 4, "small": 18, "full": 36}
    ids = {e.exp_id for e in plan.experiments}
    assert {"p1_mlp_shifted_main_epochs5_s0", "mlp-noscale_cancer_ablation_epochs40_s2"} <= ids
    for stage in plan.stages:
        seen = {e.group for e in plan.of_stage(stage.name)}
        assert {"main", "baseline"} <= seen
        for check in stage.all_checks:
            wanted = {str(g) for g in check.only.get("group", ["main"])}
            assert wanted <= seen, f"check {check.name} of stage {stage.name} has nothing to judge"


def test_spec_explains_itself() -> None:
    campaign = load_campaign(FOLDER / "campaign.yaml")
    assert set(campaign.groups) == {"main", "baseline", "ablation"}
    assert all(g.purpose and g.if_fails for g in campaign.groups.values())
    assert all(c.if_fails for stage in campaign.pilot for c in stage.all_checks)
    assert [sum(c.core for c in stage.checks) for stage in campaign.pilot] == [1, 1]


def test_every_point_of_the_spec_is_accepted_by_the_script(train: ModuleType) -> None:
    campaign = load_campaign(FOLDER / "campaign.yaml")
    check_command(campaign)
    template = words_of(campaign.command)[2:]
    for e in make_plan(campaign).experiments:
        filled = [w.format(**e.params, seed=e.seed, run_dir="r d", checkpoint_dir="c") for w in template]
        args = train.parse_args(filled)
        assert (args.method, args.dataset, args.seed) == (e.method, e.dataset, e.seed)
        assert (args.epochs, args.run_dir, args.resume) == (e.params["epochs"], Path("r d"), True)
