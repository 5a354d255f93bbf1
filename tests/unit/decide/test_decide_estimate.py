import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, failed, run, view

from prefect_campaign.decide.estimate import estimate_full_hours, wall_hours, work_ratio
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.spec import Budget, Policy, Resources, Stage


def timed(spec, minutes, stage="minimal", **more):
    """Views of a stage where each method takes so many minutes."""
    plan = make_plan(spec)
    views = [view(p, 0.5, busy_seconds=60.0 * minutes[p.method], **more) for p in plan.of_stage(stage)]
    return plan, views


def hours(estimate, method):
    """The hours of the method's experiments, which must all be the same."""
    found = {h for e, h in estimate.per_experiment.items() if e.startswith(method)}
    assert len(found) == 1, found
    return found.pop()


def test_formula_with_epochs_from_the_arguments():
    spec = campaign(args={"epochs": 100})  # the pilot has 2
    plan, views = timed(spec, {"ours": 3.0, "tent": 6.0})
    cost = estimate_full_hours(spec, plan, views)
    assert hours(cost, "ours") == pytest.approx(3 / 60 * 50 * 1.2)
    assert hours(cost, "tent") == pytest.approx(6 / 60 * 50 * 1.2)
    assert cost.total_hours == pytest.approx(3 * 3.0 + 3 * 6.0)
    assert cost.used_hours == pytest.approx((3 * 3 + 3 * 6) / 60)
    assert (cost.experiments, cost.datasets) == (6, 1)
    assert cost.mean_hours == pytest.approx(4.5)
    assert "epochs 2 to 100" in cost.basis


def test_scale_comes_before_the_arguments():
    spec = campaign(pilot=[Stage("minimal", args={"epochs": 2}, scale=20)])
    plan, views = timed(spec, {"ours": 10, "tent": 10})
    cost = estimate_full_hours(spec, plan, views)
    assert hours(cost, "ours") == pytest.approx(10 / 60 * 20 * 1.2)
    assert "scale 20 of stage minimal" in cost.basis


def test_at_least_half_an_hour():
    spec = campaign()
    plan, views = timed(spec, {"ours": 0.01, "tent": 0.01})
    cost = estimate_full_hours(spec, plan, views)
    assert hours(cost, "ours") == 0.5
    # Six runs of 0.01 min x 5 for the epochs x 1.2: what was measured is not hidden behind it.
    assert "by the measured runs alone it is 22 s in all" in cost.basis
    plan, views = timed(spec, {"ours": 1, "tent": 1})
    assert "by the measured runs alone it is 36 min in all" in estimate_full_hours(spec, plan, views).basis


def test_what_was_measured_is_not_told_twice():
    spec = campaign()
    plan, views = timed(spec, {"ours": 60, "tent": 60})
    assert "alone" not in estimate_full_hours(spec, plan, views).basis


def test_platform_factor_and_unknown_scale():
    spec = campaign(pilot=[Stage("minimal")])
    plan, views = timed(spec, {"ours": 60, "tent": 60})
    cost = estimate_full_hours(spec, plan, views, platform_factor=2.0)
    assert hours(cost, "ours") == pytest.approx(2.4)
    assert "taken as 1" in cost.basis
    assert "platform factor 2" in cost.basis


def test_expected_minutes_replace_the_estimate():
    spec = campaign(resources=Resources(expected_minutes=12))
    plan, views = timed(spec, {"ours": 600, "tent": 600})
    cost = estimate_full_hours(spec, plan, views)
    assert set(cost.per_experiment.values()) == {0.2}
    assert "expected_minutes" in cost.basis


def test_what_has_no_pilot_run_of_its_own_gets_the_mean():
    stage = Stage("minimal", only={"dataset": "a"}, args={"epochs": 10})
    spec = campaign(datasets=("a", "b"), pilot=[stage])
    plan, views = timed(spec, {"ours": 60, "tent": 120})
    cost = estimate_full_hours(spec, plan, views)
    assert hours(cost, "ours_a") == pytest.approx(1.2)
    assert hours(cost, "ours_b") == pytest.approx(1.8)
    assert "6 of 12 experiments" in cost.basis
    assert "6 by the mean" in cost.basis


def test_the_latest_stage_is_the_closest():
    stages = [Stage("one", args={"epochs": 1}), Stage("two", args={"epochs": 5})]
    spec = campaign(pilot=stages)
    plan, first = timed(spec, {"ours": 60, "tent": 60}, "one")
    _, second = timed(spec, {"ours": 100, "tent": 100}, "two")
    cost = estimate_full_hours(spec, plan, [*first, *second])
    assert hours(cost, "ours") == pytest.approx(100 / 60 * 2 * 1.2)
    assert cost.used_hours == pytest.approx(6 + 10)


@pytest.mark.parametrize("busy", [0.0, math.nan, math.inf, -5.0])
def test_unknown_is_none_with_a_basis(busy):
    spec = campaign(policy=Policy(max_parallel=2, budget=Budget(price_per_hour=2)))
    plan, _, views = run(spec, {"ours": failed(), "tent": {"objective_value": 0.5, "busy_seconds": busy}})
    cost = estimate_full_hours(spec, plan, views)
    assert set(cost.per_experiment.values()) == {None}
    assert (cost.total_hours, cost.wall_clock_hours, cost.price, cost.mean_hours) == (None, None, None, None)
    assert cost.used_hours == pytest.approx(0.5)  # the failed ones ran as well
    assert cost.basis.startswith("unknown: no finished pilot run")


def test_start_and_end_stand_in_for_a_missing_run_time():
    spec = campaign(pilot=[Stage("minimal")])
    plan = make_plan(spec)
    views = [view(p, 0.5, busy_seconds=0.0, started_at=100.0, ended_at=3700.0) for p in plan.of_stage("minimal")]
    assert hours(estimate_full_hours(spec, plan, views), "ours") == pytest.approx(1.2)


def test_money_and_devices():
    spec = campaign(
        pilot=[Stage("minimal")],
        resources=Resources(gpus=4),
        policy=Policy(budget=Budget(price_per_hour=2.5, currency="EUR")),
    )
    plan, views = timed(spec, {"ours": 60, "tent": 60})
    cost = estimate_full_hours(spec, plan, views)
    assert cost.total_hours == pytest.approx(6 * 1.2 * 4)
    assert cost.price == pytest.approx(6 * 1.2 * 4 * 2.5)
    assert cost.price_used == pytest.approx(6 * 1 * 4 * 2.5)
    assert cost.currency == "EUR"


def test_wall_clock_with_slots():
    spec = campaign(pilot=[Stage("minimal")])
    plan, views = timed(spec, {"ours": 100, "tent": 50})  # 3 x 2 h and 3 x 1 h
    assert estimate_full_hours(spec, plan, views).wall_clock_hours is None
    assert estimate_full_hours(spec, plan, views, slots=1).wall_clock_hours == pytest.approx(9)
    assert estimate_full_hours(spec, plan, views, slots=2).wall_clock_hours == pytest.approx(5)
    assert estimate_full_hours(spec, plan, views, slots=100).wall_clock_hours == pytest.approx(2)
    three = campaign(methods=("quick", "tent", "slow"), seeds=1, pilot=[Stage("minimal")])
    plan, views = timed(three, {"quick": 50, "tent": 100, "slow": 150})  # 1, 2 and 3 h; the longest goes first
    assert estimate_full_hours(three, plan, views, slots=2).wall_clock_hours == pytest.approx(3)
    spec = campaign(pilot=[Stage("minimal")])
    plan, views = timed(spec, {"ours": 100, "tent": 50})
    limited = campaign(pilot=[Stage("minimal")], policy=Policy(max_parallel=3))
    assert estimate_full_hours(limited, plan, views).wall_clock_hours == pytest.approx(3)


@pytest.mark.parametrize(
    ("full", "pilot", "ratio"),
    [
        ({"epochs": 100}, {"epochs": 4}, 25),
        ({"epochs": 100, "data_fraction": 1.0}, {"epochs": 10, "data_fraction": 0.05}, 200),
        ({"max_steps": 1000, "epochs": 5}, {"max_steps": 10, "epochs": 1}, 100),
        ({"max_steps": 10, "epochs": 5}, {"max_steps": 10, "epochs": 1}, 5),
        ({"samples": 60000}, {"samples": 600}, 100),
        ({"lr": 1.0}, {"lr": 0.1}, 1),
        ({"epochs": 10}, {}, 1),
        ({"epochs": "all", "steps": True}, {"epochs": 2, "steps": 1}, 1),
        ({"epochs": math.nan}, {"epochs": 2}, 1),
        ({"epochs": 5}, {"epochs": 0}, 1),
    ],
)
def test_work_ratio(full, pilot, ratio):
    found, basis = work_ratio(full, pilot)
    assert found == pytest.approx(ratio)
    assert bool(basis) is (ratio != 1)


@pytest.mark.parametrize(
    ("estimate", "asked"), [(2.0, 3), (0.5, 1), (1.0, 2), (10.1, 16), (None, 12), (math.nan, 12), (math.inf, 12)]
)
def test_wall_time_asked(estimate, asked):
    assert wall_hours(estimate) == asked


@given(st.floats(min_value=0.5, max_value=1e4))
def test_wall_time_covers_the_estimate(estimate):
    assert 1.5 * estimate <= wall_hours(estimate) < 1.5 * estimate + 1
