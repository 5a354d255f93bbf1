"""Fixes: what the next attempt changes, when results stay comparable, and when nothing is left to try."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefect_campaign.heal.catalog import load_catalog
from prefect_campaign.heal.diagnosis import diagnose
from prefect_campaign.heal.fixes import MORE_TIME, RETRY, Fix, propose
from prefect_campaign.model.records import UNKNOWN_WALL_MINUTES, AttemptSpec, Diagnosis, Evidence, FixRecord


def spec(*words: str, **changes: Any) -> AttemptSpec:
    given: dict[str, Any] = {"env": {}, "params": {}, **changes}
    return AttemptSpec("e", 1, "t-a1", ("python", "train.py", *words), workdir="/w", run_dir="/c/e/a1", seed=0, **given)


def heal(
    failed: AttemptSpec, signature: str, history: list[FixRecord] | None = None, flags: dict[str, str] | None = None
) -> Fix | None:
    return propose(
        failed,
        Diagnosis(signature, "", ""),
        history or [],
        flags=flags or {},
        attempt=failed.attempt + 1,
        token=f"t-a{failed.attempt + 1}",
        run_dir=f"/c/e/a{failed.attempt + 1}",
    )


def fixed(failed: AttemptSpec, signature: str, flags: dict[str, str] | None = None) -> tuple[str, bool]:
    found = heal(failed, signature, flags=flags)
    assert found
    assert found.record == FixRecord(2, signature, found.spec.changes[-1])
    return " ".join(found.spec.argv[2:]), found.spec.comparable


def test_out_of_a_part_of_a_gpu_it_gets_more_before_anything_is_changed() -> None:
    failed = spec("--batch-size", "64", vram_mb=4000)
    first = heal(failed, "cuda_oom")
    assert first
    assert (first.spec.argv, first.spec.comparable, first.spec.changes) == (failed.argv, True, ())
    second = heal(failed, "cuda_oom", [first.record])
    assert second
    assert "--batch-size 32" in " ".join(second.spec.argv)


def test_after_an_estimated_wall_time_it_gets_more_but_never_more_than_the_users_own_limit() -> None:
    first = heal(spec(wall_minutes=60), "timeout")
    assert first
    assert (first.spec.wall_minutes, first.spec.comparable, first.spec.changes) == (UNKNOWN_WALL_MINUTES, True, ())
    second = heal(first.spec, "timeout", [first.record])
    assert second
    assert second.spec.wall_minutes == 2 * UNKNOWN_WALL_MINUTES
    assert heal(second.spec, "timeout", [first.record, FixRecord(3, "timeout", MORE_TIME)]) is None
    assert heal(spec(wall_minutes=60, time_minutes=60), "timeout") is None


def test_accumulation_keeps_the_effective_batch() -> None:
    assert fixed(spec("--batch-size", "64", "--grad-accum", "1"), "cuda_oom") == (
        "--batch-size 32 --grad-accum 2",
        True,
    )
    found = heal(spec("--batch-size", "64", "--grad-accum", "1"), "cuda_oom")
    assert found
    assert found.spec.changes == ("batch_size 64 -> 32, grad_accum 1 -> 2",)


@pytest.mark.parametrize(
    ("words", "flags", "expected", "comparable"),
    [
        ("-b 64", {}, "-b 32", False),
        ("-b 7 --grad-accum 1", {}, "-b 3 --grad-accum 2", False),  # 6 is not 7
        ("-b 64", {"grad_accum": "--ga"}, "-b 32 --ga 2", True),
        ("-b 64 --ga 4", {"grad_accum": "--ga"}, "-b 32 --ga 8", True),
        ("-b 64 --ga auto", {"grad_accum": "--ga"}, "-b 32 --ga auto", False),
        ("train.batch_size=64 train.accum_steps=2", {}, "train.batch_size=32 train.accum_steps=4", True),
    ],
)
def test_smaller_batch(words: str, flags: dict[str, str], expected: str, comparable: bool) -> None:
    assert fixed(spec(*words.split()), "cuda_oom", flags) == (expected, comparable)


@pytest.mark.parametrize("words", ["-b 1", "-b 0", "-b -1", "-b 0.5", "-b auto", "64", "", "--bigbatch 64"])
def test_no_smaller_batch(words: str) -> None:
    assert heal(spec(*words.split()), "cuda_oom") is None


def test_the_batch_is_halved_down_to_one() -> None:
    now, history = spec("--batch-size", "8"), list[FixRecord]()
    while found := heal(now, "cuda_oom", history):
        now = found.spec
        history.append(found.record)
    assert now.argv[-1] == "1"
    assert now.changes == ("batch_size 8 -> 4", "batch_size 4 -> 2", "batch_size 2 -> 1")


@pytest.mark.parametrize(
    ("words", "flags", "expected"),
    [
        ("--data-fraction 1.0", {}, "--data-fraction 0.5"),
        ("--data-fraction 1", {}, "--data-fraction 0.5"),
        ("trainer.limit_train_batches=100", {}, "trainer.limit_train_batches=50"),
        ("trainer.limit_train_batches=1.0", {}, "trainer.limit_train_batches=0.5"),
        ("--max-samples 101", {}, "--max-samples 50"),
        ("", {"data_fraction": "--frac"}, "--frac 0.5"),
    ],
)
def test_less_data_is_not_comparable(words: str, flags: dict[str, str], expected: str) -> None:
    assert fixed(spec(*words.split()), "host_oom", flags) == (expected, False)


def test_a_kill_that_may_have_another_reason_is_tried_again_unchanged_where_nothing_can_be_changed() -> None:
    guess = diagnose(Evidence(exit_code=137))
    found = propose(spec("--batch-size", "8"), guess, [], flags={}, attempt=2, token="t", run_dir="/r/a2")
    assert found
    assert (found.record.fix, found.spec.argv, found.spec.comparable) == (RETRY, spec("--batch-size", "8").argv, True)
    proven = diagnose(Evidence(exit_code=137, oom_killed=True))
    assert propose(spec("--batch-size", "8"), proven, [], flags={}, attempt=2, token="t", run_dir="/r/a2") is None
    less = propose(spec("--max-samples", "8"), guess, [], flags={}, attempt=2, token="t", run_dir="/r/a2")
    assert less
    assert less.spec.argv[-1] == "4"


@pytest.mark.parametrize("words", ["", "--max-samples 1", "--max-samples -1", "--data-fraction 0", "--batch-size 64"])
def test_no_less_data(words: str) -> None:
    assert heal(spec(*words.split()), "host_oom") is None


@pytest.mark.parametrize(
    ("words", "flags", "expected"),
    [
        ("--lr 0.001 --clip 5", {}, "--lr 0.0001 --clip 1.0"),
        ("--lr 0.1", {}, "--lr 0.01"),
        ("--lr 0.1", {"grad_clip": "--clip"}, "--lr 0.01 --clip 1.0"),
        ("--lr 0.1 --max-grad-norm 0.5", {}, "--lr 0.01 --max-grad-norm 0.5"),
        ("--clip 0", {}, "--clip 1.0"),
        ("optimizer.lr=1", {}, "optimizer.lr=0.1"),
    ],
)
def test_calmer_training_is_not_comparable(words: str, flags: dict[str, str], expected: str) -> None:
    assert fixed(spec(*words.split()), "nan_loss", flags) == (expected, False)


@pytest.mark.parametrize("words", ["", "--clip 1.0", "--lr 0", "--lr nan", "--epochs 3"])
def test_nothing_to_calm(words: str) -> None:
    assert heal(spec(*words.split()), "nan_loss") is None


@pytest.mark.parametrize("signature", ["lost", "killed", "unknown", "preempted", "node_failure"])
def test_retry_unchanged_twice_then_escalate(signature: str) -> None:
    failed = spec("-b", "64", changes=("batch_size 128 -> 64",))
    first = heal(failed, signature)
    assert first
    assert first.record.fix == RETRY
    assert first.spec == replace(failed, attempt=2, token="t-a2", run_dir="/c/e/a2")
    second = heal(first.spec, signature, [first.record])
    assert second
    assert heal(second.spec, signature, [first.record, second.record]) is None
    other = [replace(r, signature="cuda_oom") for r in (first.record, second.record)]
    assert heal(second.spec, signature, other)


@pytest.mark.parametrize(
    "signature", ["no_result", "command_not_found", "missing_module", "disk_full", "timeout", "never heard of"]
)
def test_what_a_retry_cannot_change_is_escalated_at_once(signature: str) -> None:
    assert heal(spec("-b", "64", "--lr", "0.1"), signature) is None


def test_the_same_fix_twice_without_effect_escalates() -> None:
    failed = spec("-b", "64")
    record = FixRecord(2, "cuda_oom", "batch_size 64 -> 32")
    assert heal(failed, "cuda_oom", [record])
    assert heal(failed, "cuda_oom", [record, record]) is None


def test_the_run_dir_moves_everywhere_and_the_old_spec_stays() -> None:
    failed = spec(
        "--out", "/c/e/a1", "--log=/c/e/a1/x.log", "/c/e/a1.json", "/c/e/a10", "{run_dir}",
        env={"OUT": "/c/e/a1/w", "CK": "/c/e/checkpoints"},
    )  # fmt: skip
    before = replace(failed, env=dict(failed.env), params=dict(failed.params))
    found = heal(failed, "lost")
    assert found
    assert found.spec.argv[2:] == (
        "--out", "/c/e/a2", "--log=/c/e/a2/x.log", "/c/e/a2.json", "/c/e/a10", "{run_dir}",
    )  # fmt: skip
    assert found.spec.env == {"OUT": "/c/e/a2/w", "CK": "/c/e/checkpoints"}
    assert (found.spec.attempt, found.spec.token, found.spec.run_dir) == (2, "t-a2", "/c/e/a2")
    assert found.spec.checkpoint_dir == failed.checkpoint_dir
    assert failed == before
    untouched = heal(replace(failed, run_dir=""), "lost")
    assert untouched
    assert untouched.spec.argv == failed.argv


def test_a_new_run_dir_is_plain_text() -> None:
    found = propose(spec("/c/e/a1"), Diagnosis("lost", "", ""), [], flags={}, attempt=2, token="t", run_dir=r"/c/\1 ü")
    assert found
    assert found.spec.argv[-1] == r"/c/\1 ü"


def test_planned_params_follow_the_command() -> None:
    failed = spec("--batch-size", "64", "--lr", "0.1", params={"batch_size": 64, "lr": "0.1", "width": 64, "bs": 16})
    found = heal(failed, "cuda_oom")
    assert found
    assert found.spec.params == {"batch_size": 32, "lr": "0.1", "width": 64, "bs": 16}
    calmer = heal(failed, "nan_loss")
    assert calmer
    assert calmer.spec.params["lr"] == "0.01"
    mapped = heal(spec("--mb", "64", params={"mb": 64}), "cuda_oom", flags={"batch_size": "--mb"})
    assert mapped
    assert mapped.spec.params == {"mb": 32}
    short = heal(spec("-b", "64", params={"b": 64}), "cuda_oom")
    assert short
    assert short.spec.params == {"b": 32}


def test_once_not_comparable_always_not_comparable() -> None:
    found = heal(spec("-b", "64", "--grad-accum", "1", comparable=False), "cuda_oom")
    assert found
    assert found.spec.comparable is False


def test_a_users_signature_gets_the_fix_it_names(tmp_path: Path) -> None:
    extra = tmp_path / "mine.yaml"
    extra.write_text("signatures: {licence: {cause: none free, fix: retry}, unknown: {fix: null}}")
    catalog = load_catalog(extra)
    rest: dict[str, Any] = {"flags": {}, "attempt": 2, "token": "t", "run_dir": "/r", "catalog": catalog}
    assert propose(spec(), Diagnosis("licence", "", ""), [], **rest)
    assert propose(spec(), Diagnosis("unknown", "", ""), [], **rest) is None
