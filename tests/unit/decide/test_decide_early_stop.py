import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, failed, run

from prefect_campaign.decide.early_stop import groups_to_stop
from prefect_campaign.model.spec import Policy

PENDING = {"state": "ready", "attempt": 0}


def stop(results, spec=None):
    spec = spec or campaign()
    _, _, views = run(spec, results, "full")
    return groups_to_stop(spec, views)


@pytest.mark.parametrize("state", ["planned", "ready", "queued"])
@pytest.mark.parametrize(("mode", "bad", "good"), [("max", 0.5, 0.9), ("min", 0.9, 0.5)])
def test_one_bad_main_result_is_enough(mode, bad, good, state):
    spec = campaign(objective={"mode": mode})
    waiting = {"state": state}
    found = stop({"ours": [bad, waiting, waiting], "tent": 0.7}, spec)
    assert set(found) == {"ours_c10_main_epochs10_s1", "ours_c10_main_epochs10_s2"}
    assert "ours_c10_main_epochs10_s0" in found["ours_c10_main_epochs10_s1"]
    assert "0.2 worse than the baseline 0.7" in found["ours_c10_main_epochs10_s1"]
    assert stop({"ours": [good, waiting, waiting], "tent": 0.7}, spec) == {}


def test_one_good_result_keeps_the_group():
    assert stop({"ours": [0.1, 0.9, PENDING], "tent": 0.7}) == {}


@pytest.mark.parametrize(("value", "stops"), [(0.694, True), (0.695, False), (0.697, False), (0.7, False)])
def test_the_threshold_is_half_a_point(value, stops):
    assert bool(stop({"ours": [value, PENDING, PENDING], "tent": 0.7})) is stops


def test_the_threshold_is_the_users():
    spec = campaign(policy=Policy(early_stop_threshold=5))
    assert stop({"ours": [0.66, PENDING, PENDING], "tent": 0.7}, spec) == {}
    assert stop({"ours": [0.64, PENDING, PENDING], "tent": 0.7}, spec)


def test_other_groups_need_two_results():
    spec = campaign(methods=("cut", "tent"))
    groups = {**spec.groups, "ablation": spec.groups["baseline"].model_copy(update={"only": {"method": ["cut"]}})}
    spec = spec.model_copy(update={"groups": groups})
    assert stop({"cut": [0.1, PENDING, PENDING], "tent": 0.7}, spec) == {}
    assert len(stop({"cut": [0.1, 0.2, PENDING], "tent": 0.7}, spec)) == 1


def test_methods_are_judged_apart():
    spec = campaign(methods=("ours", "weak", "tent"))
    found = stop({"ours": [0.9, PENDING, PENDING], "weak": [0.1, PENDING, PENDING], "tent": 0.7}, spec)
    assert all(e.startswith("weak") for e in found)
    assert len(found) == 2


def test_baselines_are_never_stopped():
    spec = campaign(methods=("ours", "tent", "source"), baselines=("tent", "source"))
    assert stop({"ours": 0.5, "tent": 0.7, "source": [0.1, PENDING, PENDING]}, spec) == {}
    spec = campaign(methods=("ours", "tent", "source"), baselines=("tent", "source"), datasets=("a", "b"), seeds=2)
    weak = {("source", "a"): 0.1, ("source", "b"): PENDING}
    assert stop({"ours": 0.5, "tent": 0.7, **weak}, spec) == {}


@pytest.mark.parametrize("tent", [failed(), math.nan, [0.7, 0.7, {"state": "running"}], [0.7, PENDING, PENDING]])
def test_nothing_is_stopped_before_the_baseline_is_known(tent):
    assert stop({"ours": [0.1, PENDING, PENDING], "tent": tent}) == {}


def test_nothing_is_stopped_without_any_baseline():
    assert stop({"ours": [0.1, PENDING, PENDING], "tent": 0.9}, campaign(baselines=())) == {}


def test_a_reported_baseline_counts():
    spec = campaign(baselines=(), objective={"baseline": 0.7})
    assert len(stop({"ours": [0.1, PENDING, PENDING], "tent": 0.9}, spec)) == 2


def test_each_member_is_compared_on_its_own_dataset():
    spec = campaign(datasets=("easy", "hard"), seeds=2)
    base = {("tent", "easy"): 0.9, ("tent", "hard"): 0.3}
    good_on_hard = {**base, ("ours", "easy"): [0.5, PENDING], ("ours", "hard"): [0.6, PENDING]}
    assert stop(good_on_hard, spec) == {}
    bad_on_both = {**base, ("ours", "easy"): [0.5, PENDING], ("ours", "hard"): [0.1, PENDING]}
    assert len(stop(bad_on_both, spec)) == 2
    unknown_on_hard = {**bad_on_both, ("tent", "hard"): [0.3, PENDING]}
    assert stop(unknown_on_hard, spec) == {}


@pytest.mark.parametrize("member", [failed(), math.nan, None, {"objective_value": 0.1, "comparable": False}])
def test_a_member_without_a_result_is_no_evidence(member):
    assert stop({"ours": [member, PENDING, PENDING], "tent": 0.7}) == {}


def test_running_members_go_on():
    found = stop({"ours": [0.1, {"state": "running"}, PENDING], "tent": 0.7})
    assert set(found) == {"ours_c10_main_epochs10_s2"}


def test_the_pilot_is_left_alone():
    spec = campaign()
    _, _, views = run(spec, {"ours": [0.1, PENDING, PENDING], "tent": 0.7}, "minimal")
    assert groups_to_stop(spec, views) == {}


@settings(max_examples=60, deadline=None)
@given(
    ours=st.lists(st.one_of(st.none(), st.floats(), st.just(PENDING)), min_size=3, max_size=3),
    tent=st.one_of(st.none(), st.floats()),
    mode=st.sampled_from(["max", "min"]),
)
def test_only_pending_members_below_a_finite_baseline_are_stopped(ours, tent, mode):
    spec = campaign(objective={"mode": mode})
    found = stop({"ours": ours, "tent": tent}, spec)
    assert all(ours[int(e[-1])] is PENDING for e in found)
    if found:
        assert math.isfinite(tent)
        done = [v for v in ours if isinstance(v, float) and math.isfinite(v)]
        assert done
        assert all(v < tent if mode == "max" else v > tent for v in done)
