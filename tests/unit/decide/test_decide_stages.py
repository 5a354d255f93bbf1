"""Judging a whole stage: rows, failures, what blocks it, and a misspelt metric."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, changed, failed, judge, only_check, run

from prefect_campaign.decide import pass_rule
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.spec import Check, Stage


def test_nan_and_failed_seeds_are_left_out_and_listed():
    verdict = judge(campaign(), {"ours": [0.9, math.nan, failed()], "tent": 0.8})
    assert verdict.passed
    assert only_check(verdict).cells[0].stats.n == 1
    assert [(f.exp_id[-2:], f.cause) for f in verdict.failures] == [
        ("s1", "non-finite result"),
        ("s2", "cuda_oom"),
    ]
    by_id = {r.exp_id[-2:]: r for r in verdict.rows if r.method == "ours"}
    assert by_id["s0"].passed is True
    assert by_id["s1"].passed is False
    assert by_id["s1"].value is None
    assert by_id["s2"].passed is False


def test_not_comparable_results_do_not_count():
    changed_run = {"objective_value": 0.99, "comparable": False, "changes": ("batch_size 64 -> 32",)}
    verdict = judge(campaign(seeds=1), {"ours": [changed_run], "tent": 0.8})
    assert not verdict.passed
    assert verdict.failures[0].reason == "batch_size 64 -> 32"
    assert only_check(verdict).cause == "not comparable"


def test_checks_select_their_candidates():
    stage = Stage(
        "minimal",
        args={"epochs": 2},
        core={"method": "ours"},
        checks=[Check(name="transfer", dimension="cross-dataset", only={"method": "ours", "dataset": "b"})],
    )
    spec = campaign(methods=("ours", "weak", "tent"), datasets=("a", "b", "c"), pilot=[stage])
    verdict = judge(spec, {"ours": 0.9, ("ours", "b"): 0.3, "weak": 0.1, "tent": 0.5})
    core, transfer = verdict.checks
    assert (core.core, core.passed) == (True, True)
    assert (transfer.core, transfer.passed) == (False, False)
    assert verdict.passed, "only core checks decide the stage"
    rows = [r for r in verdict.rows if r.check == "transfer"]
    assert {r.dataset for r in rows} == {"b"}
    assert {r.dimension for r in rows} == {"cross-dataset"}


def test_rows_cover_every_experiment_and_judge_only_candidates():
    spec = campaign(methods=("ours", "tent", "cut"))
    spec = spec.model_copy(
        update={
            "groups": {
                **spec.groups,
                "ablation": spec.groups["baseline"].model_copy(update={"only": {"method": ["cut"]}}),
            }
        }
    )
    verdict = judge(spec, {"ours": 0.9, "tent": 0.8, "cut": 0.85})
    kinds = {(r.method, r.dimension, r.passed) for r in verdict.rows}
    assert kinds == {("ours", "core mechanism", True), ("tent", "baseline", None), ("cut", "ablation", None)}
    assert len(verdict.rows) == 9
    assert all(r.baseline is None and r.delta is None for r in verdict.rows if r.dimension == "baseline")
    assert next(r for r in verdict.rows if r.method == "cut").delta == pytest.approx(0.05)


def test_without_a_core_check_every_mandatory_one_is_core():
    checks = [Check(name="a", only={"dataset": "a"}), Check(name="b", only={"dataset": "b"}, mandatory=False)]
    spec = campaign(datasets=("a", "b"), pilot=[Stage("minimal", args={"epochs": 2}, checks=checks)])
    base = {("tent", "a"): 0.5, ("tent", "b"): 0.5}
    assert judge(spec, {**base, ("ours", "a"): 0.9, ("ours", "b"): 0.1}).passed
    assert not judge(spec, {**base, ("ours", "a"): 0.1, ("ours", "b"): 0.9}).passed


def test_on_hold_blocks():
    verdict = judge(campaign(), {"ours": [0.9, 0.9, {"state": "on_hold", "reason": "twice too long"}], "tent": 0.8})
    assert verdict.blocked == ("p1_ours_c10_main_epochs2_s2",)
    assert not verdict.passed
    assert "on hold" in verdict.reason


def test_an_experiment_that_never_started_counts_as_not_run():
    verdict = judge(campaign(), {"ours": 0.9, "tent": 0.8}, edit=lambda views: views[:-3])
    assert not verdict.passed
    assert only_check(verdict).cause == pass_rule.BASELINE_FAILED
    assert {f.reason for f in verdict.failures} == {"never started"}


def test_views_of_other_stages_and_old_plans_are_ignored():
    def add(views):
        stray = replace(views[0], exp_id="p1_old", objective_value=5.0)
        return [*views, stray, replace(views[0], exp_id="x", state="on_hold")]

    verdict = judge(campaign(), {"ours": 0.5, "tent": 0.8}, edit=add)
    assert not verdict.passed
    assert not verdict.blocked


def no_result(**metrics):
    return failed("no_result", metrics=metrics)


def test_a_misspelt_metric_is_found():
    spec = campaign(objective={"metric": "final/acuracy"})
    verdict = judge(spec, {"ours": no_result(**{"final/accuracy": 0.9, "loss": 1.0}), "tent": no_result()})
    assert not verdict.passed
    missing = verdict.metric_missing
    assert missing.seen == ("final/accuracy", "loss")
    assert missing.close == ("final/accuracy",)
    assert "did you mean 'final/accuracy'?" in missing.message
    assert verdict.reason == missing.message


def test_no_metric_at_all():
    missing = judge(campaign(), {"ours": no_result(), "tent": no_result()}).metric_missing
    assert missing is not None
    assert "nor any other metric" in missing.message


@pytest.mark.parametrize(
    "ours",
    [
        [no_result(loss=1.0), no_result(loss=1.0), 0.5],  # one has a result
        [no_result(loss=1.0), no_result(loss=1.0), failed()],  # one failed otherwise
        [no_result(**{"final/accuracy": math.nan})] * 3,  # the name is right, the value is not
        [{"state": "running"}] * 3,  # nothing ended
    ],
)
def test_metric_is_missing_only_when_no_run_knows_it(ours):
    assert judge(campaign(), {"ours": ours, "tent": ours}).metric_missing is None


def test_later_stages_are_named():
    stages = [Stage("one", args={"epochs": 1}), Stage("two", args={"epochs": 2}), Stage("three", args={"epochs": 3})]
    spec = campaign(pilot=stages)
    assert judge(spec, {"ours": 0.9, "tent": 0.8}, "one").later == ("two", "three")
    assert judge(spec, {"ours": 0.9, "tent": 0.8}, "three").later == ()


@pytest.mark.parametrize(
    ("mode", "best"), [("max", "p1_ours_c10_main_epochs2_s1"), ("min", "p1_ours_c10_main_epochs2_s0")]
)
def test_best_row(mode, best):
    results = {"ours": [0.2, 0.9, math.nan], "tent": 0.5}
    assert judge(campaign(objective={"mode": mode}), results).best.exp_id == best
    no_baseline = campaign(methods=("ours",), baselines=(), objective={"mode": mode})
    assert judge(no_baseline, results).best.exp_id == best


@settings(max_examples=60, deadline=None)
@given(
    ours=st.lists(st.one_of(st.none(), st.floats()), min_size=3, max_size=3),
    tent=st.lists(st.one_of(st.none(), st.floats()), min_size=3, max_size=3),
    mode=st.sampled_from(["max", "min"]),
)
def test_any_numbers_give_a_verdict_and_a_pass_has_finite_evidence(ours, tent, mode):
    verdict = judge(campaign(objective={"mode": mode}), {"ours": ours, "tent": tent})
    if verdict.passed:
        (cell,) = only_check(verdict).cells
        assert math.isfinite(cell.delta)
        assert cell.delta >= 0.0099
        assert cell.delta > 2 * cell.stats.std
    assert len(verdict.rows) == 6


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    victim=st.integers(0, 5),
    state=st.sampled_from(["failed", "cancelled", "on_hold", "running"]),
)
def test_losing_a_run_never_makes_another_dataset_pass(values, victim, state):
    # One seed, one configuration: an experiment that ends badly can only take evidence away.
    spec = campaign(datasets=("a", "b", "c"), seeds=1)
    keys = [(m, d) for m in ("ours", "tent") for d in "abc"]
    results = {k: [v] for k, v in zip(keys, values, strict=True)}
    plan, stage, views = run(spec, results)
    before = judge_stage(spec, plan, stage, views)
    lost = changed(views, views[victim].exp_id, state=state, objective_value=None)
    after = judge_stage(spec, plan, stage, lost)
    passes = sum(c.passed for c in before.checks[0].cells)
    assert sum(c.passed for c in after.checks[0].cells) <= passes
