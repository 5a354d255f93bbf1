import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, changed, failed, run, view

from prefect_campaign.decide import pass_rule
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.spec import Campaign, Check, Objective, Stage
from prefect_campaign.model.sweep import Range, Sweep


def judge(spec, results, stage="minimal", edit=None):
    plan, found, views = run(spec, results, stage)
    return judge_stage(spec, plan, found, edit(views) if edit else views)


def only_check(verdict):
    (check,) = verdict.checks
    return check


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
