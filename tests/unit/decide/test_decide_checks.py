"""Judging one check of a stage: the pass rule, and with what a check compares."""

import math

import pytest
from unit.decide.decide_data import campaign, failed, judge, only_check, view

from prefect_campaign.decide import pass_rule
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.spec import Campaign, Check, Objective, Stage
from prefect_campaign.model.sweep import Range, Sweep


@pytest.mark.parametrize(
    ("mode", "ours", "tent", "passed"),
    [("max", 0.9, 0.8, True), ("max", 0.8, 0.9, False), ("min", 0.1, 0.2, True), ("min", 0.2, 0.1, False)],
)
def test_beats_the_baseline_in_either_direction(mode, ours, tent, passed):
    verdict = judge(campaign(objective={"mode": mode}), {"ours": ours, "tent": tent})
    assert verdict.passed is passed
    assert only_check(verdict).delta == pytest.approx(0.1 if passed else -0.1)


def test_the_verdict_cites_numbers_and_ids():
    check = only_check(judge(campaign(), {"ours": [0.90, 0.91, 0.92], "tent": 0.8}))
    for part in ("0.91", "0.8", "+0.11", "p1_ours_c10_main_epochs2_s0", "tent", "3 seeds"):
        assert part in check.reason


@pytest.mark.parametrize(
    ("ours", "objective", "cause"),
    [
        ([0.81, 0.81, 0.81], {}, ""),
        ([0.809, 0.809, 0.809], {}, pass_rule.BELOW_MIN_DELTA),
        ([0.84, 0.90, 0.96], {}, pass_rule.WITHIN_NOISE),  # delta 0.1, std 0.06
        ([0.84, 0.84, 0.84], {"noise_floor": 0.05}, pass_rule.WITHIN_NOISE),
        ([0.85, 0.85, 0.85], {"noise_floor": 0.05}, ""),
        ([0.80, 0.80, 0.80], {"min_delta": 0}, pass_rule.WITHIN_NOISE),  # equal is not better
    ],
)
def test_the_pass_rule(ours, objective, cause):
    check = only_check(judge(campaign(objective=objective), {"ours": ours, "tent": 0.8}))
    assert check.cause == cause
    assert check.passed is (cause == "")


@pytest.mark.parametrize(("ours", "passed"), [(0.80, True), (0.79, True), (0.785, False), (0.95, True)])
def test_equality_claims_need_only_be_not_worse(ours, passed):
    stage = Stage("minimal", args={"epochs": 2}, checks=[Check(name="cost", claim="equality")])
    check = only_check(judge(campaign(pilot=[stage]), {"ours": ours, "tent": 0.8}))
    assert check.passed is passed
    assert check.cause == ("" if passed else pass_rule.WORSE)


def test_one_seed_passes_with_an_unknown_std():
    check = only_check(judge(campaign(seeds=1), {"ours": [0.9], "tent": [0.8]}))
    assert check.passed
    assert not check.cells[0].stats.std_known
    assert "std unknown" in check.reason


def test_a_failed_baseline_cannot_be_beaten():
    # A reported value does not stand in for a baseline that was run and broke.
    spec = campaign(objective={"baseline": 0.1, "target": 0.5})
    verdict = judge(spec, {"ours": 0.99, "tent": failed()})
    assert not verdict.passed
    assert only_check(verdict).cause == pass_rule.BASELINE_FAILED
    assert "no baseline has a result" in only_check(verdict).reason


def test_without_a_baseline_a_finite_result_passes_and_the_reason_says_so():
    verdict = judge(campaign(baselines=()), {"ours": 0.2, "tent": 0.1})
    assert verdict.passed
    assert "no baseline to compare with" in only_check(verdict).reason
    assert not judge(campaign(baselines=()), {"ours": math.nan, "tent": failed()}).passed


@pytest.mark.parametrize(
    ("mode", "value", "passed"), [("max", 0.9, True), ("max", 0.89, False), ("min", 0.9, True), ("min", 0.91, False)]
)
def test_without_a_baseline_a_target_must_be_reached(mode, value, passed):
    spec = campaign(baselines=(), objective={"target": 0.9, "mode": mode})
    verdict = judge(spec, {"ours": value, "tent": value})
    assert verdict.passed is passed
    assert ("target 0.9 reached" in only_check(verdict).reason) is passed


def test_reported_baseline():
    spec = campaign(baselines=(), objective={"baseline": 0.8})
    check = only_check(judge(spec, {"ours": 0.9, "tent": 0.5}))
    assert check.passed
    assert check.delta == pytest.approx(0.1)
    assert "reported value" in check.reason


def test_a_strict_majority_of_datasets_is_needed():
    spec = campaign(datasets=("a", "b", "c"))
    base = {("tent", d): 0.5 for d in "abc"}
    two = judge(spec, {**base, ("ours", "a"): 0.9, ("ours", "b"): 0.9, ("ours", "c"): 0.4})
    assert two.passed
    one = judge(spec, {**base, ("ours", "a"): 0.99, ("ours", "b"): 0.49, ("ours", "c"): 0.49})
    assert only_check(one).delta > 0.1
    assert not one.passed
    assert only_check(one).cause == pass_rule.BELOW_MIN_DELTA
    half = judge(campaign(datasets=("a", "b")), {**base, ("ours", "a"): 0.9, ("ours", "b"): 0.5})
    assert not half.passed


def test_the_mean_delta_must_pass_too():
    spec = campaign(datasets=("a", "b", "c"))
    base = {("tent", d): 0.5 for d in "abc"}
    verdict = judge(spec, {**base, ("ours", "a"): 0.52, ("ours", "b"): 0.52, ("ours", "c"): 0.1})
    assert not verdict.passed
    assert only_check(verdict).delta < 0


def test_a_dataset_without_a_result_does_not_pass():
    spec = campaign(datasets=("a", "b"))
    verdict = judge(spec, {"tent": 0.5, ("ours", "a"): 0.9, ("ours", "b"): failed("nan_loss")})
    assert not verdict.passed
    assert only_check(verdict).cause == "nan_loss"


def test_the_best_of_several_configurations_decides():
    spec = campaign(methods=("ours", "weak", "noisy", "tent"))
    verdict = judge(spec, {"ours": 0.85, "weak": 0.5, "noisy": [0.7, 1.0, 0.99], "tent": 0.8})
    check = only_check(verdict)
    assert check.passed
    assert check.configuration == "ours"
    assert "best of 3 configurations" in check.reason


@pytest.mark.parametrize(("mode", "best"), [("max", "b"), ("min", "a")])
def test_without_a_baseline_the_best_value_decides(mode, best):
    spec = campaign(methods=("a", "b"), baselines=(), objective={"mode": mode})
    assert only_check(judge(spec, {"a": 0.5, "b": 0.9})).configuration == best


def test_a_lucky_partial_configuration_does_not_hide_a_passing_one():
    spec = campaign(methods=("ours", "fragile", "tent"), datasets=("a", "b", "c"))
    results = {
        "ours": 0.85,
        ("fragile", "a"): 0.99,
        ("fragile", "b"): failed(),
        ("fragile", "c"): failed(),
        "tent": 0.8,
    }
    assert only_check(judge(spec, results)).configuration == "ours"


def test_a_selector_by_dataset_does_not_make_baselines_candidates():
    stage = Stage("minimal", args={"epochs": 2}, core={"dataset": "c10"})
    verdict = judge(campaign(pilot=[stage]), {"ours": 0.5, "tent": 0.8})
    assert not verdict.passed
    assert only_check(verdict).configuration == "ours"


def test_a_check_of_the_baseline_itself_compares_with_the_reported_value():
    check = Check(name="reproduce", only={"group": "baseline"}, claim="equality")
    stage = Stage("minimal", args={"epochs": 2}, checks=[check])
    spec = campaign(pilot=[stage], objective={"baseline": 0.8, "min_delta": 0.02})
    assert judge(spec, {"ours": 0.9, "tent": 0.79}).passed
    assert not judge(spec, {"ours": 0.9, "tent": 0.7}).passed


def test_a_check_that_matches_nothing_fails_and_says_why():
    stage = Stage("minimal", args={"epochs": 2}, core={"method": "ours"}, only={"method": "tent"})
    verdict = judge(campaign(pilot=[stage]), {"tent": 0.8})
    assert not verdict.passed
    assert only_check(verdict).cause == pass_rule.NO_CANDIDATES
    assert "matches no experiment" in verdict.reason


def test_optuna_trials_are_configurations():
    spec = Campaign(
        name="search",
        command="train --lr {lr} --seed {seed}",
        sweep=Sweep.optuna(3, lr=Range(low=1e-4, high=1e-1, log=True), seeds=[0, 1]),
        objective=Objective(metric="final/accuracy", baseline=0.5),
    )
    plan = make_plan(spec)
    views = [
        view(p, 0.4 + 0.1 * p.params["trial"], params={**p.params, "lr": 0.01 * (1 + p.params["trial"])})
        for p in plan.of_stage("minimal")
    ]
    verdict = judge_stage(spec, plan, plan.stages[0], views)
    assert verdict.passed
    assert only_check(verdict).configuration == "lr=0.03, trial=2"
