import math
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, failed, run

from prefect_campaign.decide.compare import (
    Baseline,
    best_baseline,
    better,
    improvement,
    is_baseline,
    number,
    reaches,
    result_of,
    seed_stats,
)

MODES = ["max", "min"]
BAD = [None, math.nan, math.inf, -math.inf]
values = st.one_of(st.none(), st.floats())
finite_values = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", BAD)
def test_a_missing_or_non_finite_value_never_wins(bad, mode):
    assert not better(bad, 0.5, mode)
    assert not better(bad, None, mode)
    assert not better(bad, math.nan, mode)
    assert better(0.5, bad, mode)


def test_direction():
    assert better(2.0, 1.0, "max")
    assert not better(1.0, 2.0, "max")
    assert better(1.0, 2.0, "min")
    assert not better(2.0, 1.0, "min")
    assert not better(1.0, 1.0, "max")
    assert not better(1.0, 1.0, "min")


@given(values, values, st.sampled_from(MODES))
def test_better_is_asymmetric_and_only_for_finite_winners(a, b, mode):
    if better(a, b, mode):
        assert math.isfinite(a)
        assert not better(b, a, mode)


@given(finite_values, finite_values)
def test_max_and_min_mirror_each_other(a, b):
    assert better(a, b, "max") == better(-a, -b, "min")
    assert improvement(a, b, "max") == improvement(-a, -b, "min")


def test_improvement_is_none_without_two_finite_values():
    for bad in BAD:
        assert improvement(bad, 1.0, "max") is None
        assert improvement(1.0, bad, "min") is None
    assert improvement(1e308, -1.7e308, "max") is None


def test_improvement_is_positive_when_better():
    assert improvement(0.9, 0.5, "max") == pytest.approx(0.4)
    assert improvement(0.9, 0.5, "min") == pytest.approx(-0.4)


def test_rounding_does_not_decide():
    assert 0.57 - 0.56 < 0.01  # this is why
    assert reaches(0.57 - 0.56, 0.01)
    assert not reaches(0.0099, 0.01)
    assert reaches(-0.01, -0.01)
    assert not reaches(-1e-9, 0.0)


def test_stats_over_seeds():
    stats = seed_stats([1.0, 2.0, 3.0])
    assert (stats.n, stats.mean, stats.std, stats.std_known) == (3, 2.0, 1.0, True)


def test_one_seed_has_an_unknown_std():
    stats = seed_stats([0.5])
    assert (stats.n, stats.mean, stats.std, stats.std_known) == (1, 0.5, 0.0, False)


def test_stats_leave_out_what_is_not_a_number():
    assert seed_stats([math.nan, 1.0, None, 3.0, math.inf]).mean == 2.0
    nothing = seed_stats([math.nan, None])
    assert (nothing.n, nothing.mean, nothing.std_known) == (0, None, False)


def test_stats_of_huge_values_do_not_overflow():
    big = sys.float_info.max
    assert seed_stats([big, big]).mean == big
    assert seed_stats([big, -big]).std == math.inf


@given(st.lists(finite_values, min_size=1, max_size=20))
def test_mean_lies_between_the_extremes(found):
    stats = seed_stats(found)
    assert min(found) <= stats.mean <= max(found)
    assert stats.std >= 0


def test_only_done_comparable_and_finite_results_count():
    _, _, views = run(campaign(seeds=1), {"ours": 0.9, "tent": 0.8})
    view = views[0]
    assert result_of(view) == 0.9
    assert result_of(replace(view, state="running")) is None
    assert result_of(replace(view, state="failed")) is None
    assert result_of(replace(view, comparable=False)) is None
    for bad in BAD:
        assert result_of(replace(view, objective_value=bad)) is None


@pytest.mark.parametrize(("mode", "expected"), [("max", "tent"), ("min", "source")])
def test_best_baseline_is_by_mean_over_seeds(mode, expected):
    spec = campaign(methods=("ours", "tent", "source"), baselines=("tent", "source"), objective={"mode": mode})
    # source has the best and the worst single seed, tent the higher mean
    _, _, views = run(spec, {"ours": 0.5, "tent": 0.8, "source": [0.95, 0.1, 0.9]})
    found = best_baseline(spec.objective, views, "c10")
    assert found.kind == "run"
    assert found.label == expected
    assert len(found.exp_ids) == 3


def test_baseline_of_another_dataset_is_not_used():
    spec = campaign(datasets=("c10", "c100"))
    _, _, views = run(spec, {("tent", "c10"): 0.9, ("tent", "c100"): 0.5, "ours": 0.7})
    assert best_baseline(spec.objective, views, "c100").value == 0.5


def test_reported_value_counts_only_where_no_baseline_runs():
    spec = campaign(baselines=(), objective={"baseline": 0.7})
    _, _, views = run(spec, {"ours": 0.9, "tent": 0.9})
    assert best_baseline(spec.objective, views, "c10") == Baseline("reported", 0.7, "reported value")
    spec = campaign(objective={"baseline": 0.7})
    _, _, views = run(spec, {"ours": 0.9, "tent": failed()})
    assert best_baseline(spec.objective, views, "c10").kind == "failed"
    assert best_baseline(spec.objective, views, "c10").value is None


def test_no_baseline_at_all():
    spec = campaign(baselines=())
    _, _, views = run(spec, {"ours": 0.9, "tent": 0.9})
    assert best_baseline(spec.objective, views, "c10").kind == "none"


def test_baseline_groups_by_name():
    assert is_baseline("baseline")
    assert is_baseline("baseline-strong")
    assert not is_baseline("main")
    assert not is_baseline("no-baseline")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.123456, "0.1235"), (math.nan, "nan"), (-math.inf, "-inf"), (123456.0, "1.235e+05")],
)
def test_numbers_have_four_significant_digits(value, text):
    assert number(value) == text


def test_signed_numbers():
    assert number(0.02, sign=True) == "+0.02"
    assert number(None, sign=True) == "–"
