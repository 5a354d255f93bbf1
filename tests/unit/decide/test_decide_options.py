import pytest
from unit.decide.decide_data import campaign, failed, run

from prefect_campaign.decide.estimate import estimate_full_hours
from prefect_campaign.decide.options import gate_options
from prefect_campaign.decide.pilot import decide_pilot
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.spec import Budget, Check, Policy, Stage


def lay_out(results, spec=None, *, dirty=False, iteration=1):
    spec = spec or campaign()
    plan, stage, views = run(spec, results, spec.pilot[0].name)
    verdicts = [judge_stage(spec, plan, stage, views)]
    decision = decide_pilot(verdicts)
    cost = estimate_full_hours(spec, plan, views)
    found = gate_options(spec, verdicts, decision, cost, dirty=dirty, iteration=iteration)
    return found, {o.answer: o for o in found.options}


@pytest.mark.parametrize(("ours", "answer"), [(0.9, "CONTINUE"), (0.5, "KILL")])
def test_the_recommendation_follows_the_decision(ours, answer):
    found, options = lay_out({"ours": ours, "tent": 0.8})
    assert found.recommended == answer
    assert list(options) == ["CONTINUE", "PIVOT", "KILL"]


def test_a_shared_cause_speaks_for_a_pivot():
    checks = [
        Check(name="core", core=True, only={"method": "ours", "dataset": "a"}),
        Check(name="wide", only={"method": "ours", "dataset": "b"}, if_fails="it does not transfer"),
    ]
    spec = campaign(datasets=("a", "b"), pilot=[Stage("minimal", args={"epochs": 2}, checks=checks)])
    found, options = lay_out({"tent": 0.5, ("ours", "a"): 0.9, ("ours", "b"): failed()}, spec)
    assert found.recommended == "PIVOT"
    pivot = " ".join(options["PIVOT"].speaks_for)
    assert "cuda_oom" in pivot
    assert "it does not transfer" in pivot


def test_nothing_is_recommended_while_experiments_are_on_hold():
    found, options = lay_out({"ours": {"state": "on_hold"}, "tent": 0.8})
    assert found.recommended is None
    assert any("3 experiments on hold" in t for t in options["CONTINUE"].against)


def test_cost_money_and_budget_speak_against_going_on():
    spec = campaign(policy=Policy(budget=Budget(hours=5, price_per_hour=2)))
    _, options = lay_out({"ours": 0.9, "tent": 0.8}, spec)  # 6 experiments of 1 h
    against = " ".join(options["CONTINUE"].against)
    assert "6 slot h (12.00 USD)" in against
    assert "exceeds the budget of 5 h" in against
    assert "6 slot h" in " ".join(options["KILL"].speaks_for)


def test_an_unknown_cost_is_said():
    _, options = lay_out({"ours": {"objective_value": 0.9, "busy_seconds": 0.0}, "tent": failed(busy_seconds=0.0)})
    assert "an unknown number of slot h" in options["CONTINUE"].against[0]


@pytest.mark.parametrize("dirty", [True, False])
def test_local_changes_are_a_reason_against(dirty):
    _, options = lay_out({"ours": 0.9, "tent": 0.8}, dirty=dirty)
    assert any("local changes" in t for t in options["CONTINUE"].against) is dirty


def test_weak_evidence_is_named():
    _, options = lay_out({"ours": [0.9], "tent": [0.8]}, campaign(seeds=1))
    assert any("one seed" in t for t in options["CONTINUE"].against)
    _, options = lay_out({"ours": 0.9, "tent": 0.8}, campaign(baselines=()))
    assert any("no baseline" in t for t in options["CONTINUE"].against)


def test_the_last_iteration_is_named():
    _, options = lay_out({"ours": 0.5, "tent": 0.8}, iteration=3)
    assert any("iteration 3 of at most 3" in t for t in options["PIVOT"].against)
