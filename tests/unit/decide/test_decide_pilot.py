from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, failed, run, view

from prefect_campaign.decide import pass_rule
from prefect_campaign.decide.pilot import Recommendation, decide_pilot
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.decide.verdicts import CheckVerdict, MetricMissing, StageVerdict
from prefect_campaign.model.plan import Plan, make_plan
from prefect_campaign.model.spec import Check, Stage

PROCEED, ITERATE, ROLLBACK = Recommendation.PROCEED, Recommendation.ITERATE, Recommendation.ROLLBACK


def check(name, cause="", *, core=False, mandatory=True):
    """A check that passed (no cause) or failed."""
    return CheckVerdict(
        stage="minimal",
        name=name,
        dimension=name,
        core=core,
        mandatory=mandatory,
        passed=not cause,
        cause=cause,
        reason=f"{cause or 'passed'} with p1_{name}",
    )


def stage(*checks, **more):
    ok = all(c.passed for c in checks if c.core)
    return StageVerdict("minimal", ok, "", checks, (), (), **more)


def decide(*checks, **more):
    return decide_pilot([stage(*checks, **more)])


CORE = check("core", core=True)


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([CORE], PROCEED),
        ([check("core", "nan_loss", core=True)], ROLLBACK),
        # the first rule wins, even if all failures share a cause
        ([check("core", "cuda_oom", core=True), check("a", "cuda_oom")], ROLLBACK),
        ([CORE, check("core2", "cuda_oom", core=True)], ROLLBACK),
        ([CORE, check("a"), check("b", "x")], PROCEED),  # exactly half
        ([CORE, check("a"), check("b", "x"), check("c", "y")], ROLLBACK),
        ([CORE, check("a"), check("b", "x"), check("c", "x")], ITERATE),
        ([CORE, check("a", pass_rule.WITHIN_NOISE), check("b", pass_rule.WITHIN_NOISE)], ITERATE),
        ([CORE, check("a", pass_rule.WITHIN_NOISE), check("b", pass_rule.BELOW_MIN_DELTA)], ROLLBACK),
        # nobody knows whether two unknown causes are the same one
        ([CORE, check("a", "unknown"), check("b", "unknown")], ROLLBACK),
        ([CORE, check("a", pass_rule.SEVERAL)], ROLLBACK),
        # optional ones do not count for rule 2, but their failure is a failure
        ([CORE, check("a", "x", mandatory=False)], PROCEED),
        ([CORE, check("a", "x"), check("b", "y", mandatory=False)], ROLLBACK),
        ([CORE, check("a", "x"), check("b", mandatory=False)], ITERATE),
    ],
)
def test_first_match_decides(checks, expected):
    assert decide(*checks).recommendation == expected


def test_on_hold_blocks_even_what_would_roll_back():
    found = decide(check("core", "x", core=True), blocked=("p1_a", "p1_b"))
    assert found.recommendation is None
    assert found.blocked == ("p1_a", "p1_b")
    assert "p1_a, p1_b" in found.reason


def test_nothing_is_decided_without_measurements():
    found = decide(check("core", "no_result", core=True), metric_missing=MetricMissing("acc", ("loss",), ()))
    assert found.recommendation is None
    assert "no run reported 'acc'" in found.reason
    assert decide_pilot([]).recommendation is None


def test_the_reason_is_one_paragraph_that_cites_the_runs():
    reason = decide(CORE, check("a"), check("b", "delta\nwithin noise")).reason
    assert "p1_core" in reason
    assert "p1_b" in reason
    assert "1 of 2" in reason
    assert "\n" not in reason


def test_stages_that_did_not_run_are_named():
    found = decide(check("core", "x", core=True), later=("small", "large"))
    assert found.not_run == ("small", "large")
    assert "Not run because stage minimal failed: small, large." in found.reason
    assert "Not run" not in decide(CORE).reason


def test_a_core_check_that_fails_in_a_later_stage_rolls_back():
    small = replace(stage(check("core", "x", core=True)), stage="small")
    assert decide_pilot([stage(CORE), small]).recommendation == ROLLBACK


def test_best_is_of_the_furthest_stage():
    spec = campaign(pilot=[Stage("one", args={"epochs": 1}), Stage("two", args={"epochs": 2})])
    verdicts = []
    for name, ours in (("one", 0.99), ("two", 0.9)):
        plan, which, views = run(spec, {"ours": ours, "tent": 0.5}, name)
        verdicts.append(judge_stage(spec, plan, which, views))
    assert decide_pilot(verdicts).best.stage == "two"


def three_checks(**more):
    checks = [
        Check(name="core", core=True, only={"method": "ours", "dataset": "a"}),
        Check(name="b", only={"method": "ours", "dataset": "b"}),
        Check(name="c", only={"method": "ours", "dataset": "c"}),
    ]
    return campaign(datasets=("a", "b", "c"), pilot=[Stage("minimal", args={"epochs": 2}, checks=checks)], **more)


def test_runs_that_fail_with_one_signature_are_one_cause():
    broken = {"tent": 0.5, ("ours", "a"): 0.9, ("ours", "b"): failed(), ("ours", "c"): failed()}
    plan, which, views = run(three_checks(), broken)
    found = decide_pilot([judge_stage(three_checks(), plan, which, views)])
    assert (found.recommendation, found.shared_cause) == (ITERATE, "cuda_oom")
    assert "p1_ours_a_main_epochs2_s0" in found.reason
    plan, which, views = run(three_checks(), {**broken, ("ours", "c"): failed("nan_loss")})
    found = decide_pilot([judge_stage(three_checks(), plan, which, views)])
    assert (found.recommendation, found.shared_cause) == (ROLLBACK, None)


causes = st.sampled_from(["", "", "x", "y", "unknown"])
some_checks = st.lists(st.tuples(causes, st.booleans(), st.booleans()), min_size=1, max_size=7)
RANK = {ROLLBACK: 0, ITERATE: 1, PROCEED: 2}


@given(some_checks, st.integers(0, 6))
def test_a_check_that_fails_after_all_never_leads_to_proceed(given_checks, index):
    checks = [check(f"k{i}", c, core=core, mandatory=m) for i, (c, core, m) in enumerate(given_checks)]
    index %= len(checks)
    worse = [replace(c, passed=False, cause="z") if i == index else c for i, c in enumerate(checks)]
    before, after = decide(*checks).recommendation, decide(*worse).recommendation
    if before != PROCEED:
        assert after != PROCEED


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=18, max_size=18),
    mode=st.sampled_from(["max", "min"]),
    method=st.sampled_from(["ours", "tent"]),
    dataset=st.sampled_from(["a", "b", "c"]),
    bad=st.sampled_from([failed(), failed("nan_loss"), {"state": "cancelled"}, float("nan")]),
)
def test_adding_a_failing_experiment_never_turns_rollback_into_proceed(values, mode, method, dataset, bad):
    spec = three_checks(objective={"mode": mode})
    keys = [(m, d) for m in ("ours", "tent") for d in "abc"]
    results = {k: values[3 * i : 3 * i + 3] for i, k in enumerate(keys)}
    plan, which, views = run(spec, results)
    before = decide_pilot([judge_stage(spec, plan, which, views)])
    model = next(e for e in plan.of_stage("minimal") if (e.method, e.dataset) == (method, dataset))
    extra = replace(model, exp_id="extra", seed=99)
    bigger = Plan((*plan.experiments, extra), plan.plan_hash, plan.stages)
    after = decide_pilot([judge_stage(spec, bigger, which, [*views, view(extra, bad)])])
    assert RANK[after.recommendation] <= RANK[before.recommendation]


def test_default_spec_works_from_end_to_end():
    spec = campaign(pilot=[Stage("minimal")])
    plan = make_plan(spec)
    views = [view(p, 0.9 if p.method == "ours" else 0.8) for p in plan.of_stage("minimal")]
    assert decide_pilot([judge_stage(spec, plan, plan.stages[0], views)]).recommendation == PROCEED
