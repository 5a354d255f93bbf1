import math
import statistics

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prefect_campaign.results.statistics import holm, mean_std, read_significance, significance, write_significance

COLUMNS = [
    "dataset",
    "method",
    "baseline",
    "metric",
    "n",
    "mean_difference",
    "ci_low",
    "ci_high",
    "t",
    "p",
    "p_holm",
    "effect_size",
    "better",
]


def pair(view, ours, tent, dataset="d1"):
    return [view("ours", dataset, s, objective_value=v) for s, v in enumerate(ours)] + [
        view("tent", dataset, s, objective_value=v) for s, v in enumerate(tent)
    ]


def test_agrees_with_scipy_and_the_textbook(campaign, view):
    ours, tent = (0.91, 0.93, 0.90, 0.95), (0.88, 0.89, 0.89, 0.90)
    (row,) = significance(pair(view, ours, tent), campaign).to_dicts()

    known = stats.ttest_rel(ours, tent)
    differences = [a - b for a, b in zip(ours, tent, strict=True)]
    d_z = statistics.mean(differences) / statistics.stdev(differences)
    assert list(row) == COLUMNS
    assert (row["dataset"], row["method"], row["baseline"], row["n"]) == ("d1", "ours", "tent", 4)
    assert row["t"] == pytest.approx(known.statistic)
    assert row["p"] == pytest.approx(known.pvalue) == row["p_holm"]
    assert row["effect_size"] == pytest.approx(d_z)
    assert min(differences) <= row["ci_low"] < row["mean_difference"] < row["ci_high"] <= max(differences)
    assert row["better"] is True


def test_same_data_same_interval(campaign, study):
    assert significance(study, campaign).equals(significance(study[::-1], campaign).sort("dataset"))


def test_only_the_best_baseline_of_each_dataset_counts(campaign, study):
    rows = significance(study, campaign).to_dicts()
    assert [(r["dataset"], r["method"], r["baseline"]) for r in rows] == [
        ("d1", "ours", "tent"),
        ("d2", "ours", "tent"),
    ]


def test_smaller_is_better_in_min_mode(make_campaign_with, view):
    campaign = make_campaign_with(objective={"metric": "final/loss", "mode": "min"})
    views = pair(view, (0.30, 0.31, 0.33), (0.40, 0.42, 0.41))
    views += [view("source", "d1", s, objective_value=0.39 + s / 1000) for s in range(3)]

    (row,) = significance(views, campaign).to_dicts()

    assert row["baseline"] == "source"  # the lowest mean
    assert row["mean_difference"] < 0
    assert row["better"] is True


@pytest.mark.parametrize(
    ("ours", "t", "p", "better"),
    [
        ((0.5, 0.6, 0.7), 0.0, 1.0, False),
        ((0.6, 0.7, 0.8), math.inf, 0.0, True),
        ((0.4, 0.5, 0.6), -math.inf, 0.0, False),
    ],
)
def test_differences_without_noise_have_a_defined_answer(campaign, view, ours, t, p, better):
    # 0.6 - 0.5 and 0.8 - 0.7 differ in the last bit; that is rounding, not noise
    (row,) = significance(pair(view, ours, (0.5, 0.6, 0.7)), campaign).to_dicts()

    assert (row["t"], row["effect_size"], row["p"], row["p_holm"], row["better"]) == (t, t, p, p, better)
    assert row["ci_low"] == row["ci_high"] == row["mean_difference"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"objective_value": math.nan},
        {"objective_value": math.inf},
        {"objective_value": None},
        {"comparable": False},
        {"state": "failed"},
    ],
)
def test_what_does_not_count_is_left_out(campaign, view, spoilt):
    views = pair(view, (0.9, 0.91, 0.93, 0.5), (0.8, 0.82, 0.81, 0.79))
    views[3] = view("ours", "d1", 3, **{"objective_value": 0.5, **spoilt})
    assert significance(views, campaign)["n"].to_list() == [3]


def test_fewer_than_three_equal_seeds_are_not_tested(campaign, view):
    views = [view("ours", "d1", s, objective_value=0.9 + s / 100) for s in (0, 1, 5)]
    views += [view("tent", "d1", s, objective_value=0.8) for s in (0, 1, 2)]
    assert significance(views, campaign).height == 0


def test_pilots_are_not_tested_once_the_full_phase_has_results(campaign, view, study):
    pilots = [view(m, "d1", s, phase="pilot", objective_value=0.1 * s) for m in ("ours", "tent") for s in range(3)]
    assert significance(pilots, campaign)["n"].to_list() == [3]
    assert significance(pilots + study, campaign).equals(significance(study, campaign))


def test_configurations_of_one_method_are_tested_apart_and_corrected_together(campaign, view):
    def configured(lr, value, seed):
        return view("ours", "d1", seed, exp_id=f"o{lr}{seed}", objective_value=value,
                    params={"method": "ours", "dataset": "d1", "lr": lr})  # fmt: skip

    views = [configured(0.1, v, s) for s, v in enumerate((0.90, 0.92, 0.91))]
    views += [configured(0.01, v, s) for s, v in enumerate((0.85, 0.82, 0.84))]
    views += [view("tent", "d1", s, objective_value=v) for s, v in enumerate((0.80, 0.81, 0.805))]

    rows = significance(views, campaign).to_dicts()

    assert [r["method"] for r in rows] == ["ours [lr=0.1]", "ours [lr=0.01]"]
    assert [r["p_holm"] for r in rows] == holm([r["p"] for r in rows])


def test_huge_values_do_not_crash(campaign, view):
    huge = significance(pair(view, (1e308, -1e308, 1e308), (-1e308, 1e308, 1e300)), campaign)
    assert huge.height == 0
    big = significance(pair(view, (1e300, 2e300, 4e300), (-1e300, 2e299, 1e300)), campaign).to_dicts()
    assert all(math.isfinite(big[0][k]) for k in ("t", "p", "ci_low", "ci_high"))


def test_file_holds_the_table_and_is_valid_when_empty(campaign, study, tmp_path):
    path = write_significance(study, campaign, tmp_path)
    assert path == tmp_path / "significance_tests.csv"
    assert read_significance(path).equals(significance(study, campaign))

    write_significance([], campaign, tmp_path)
    assert path.read_text().split() == [",".join(COLUMNS)]
    assert read_significance(path).height == 0


def test_infinite_effects_survive_the_file(campaign, view, tmp_path):
    path = write_significance(pair(view, (0.6, 0.7, 0.8), (0.5, 0.6, 0.7)), campaign, tmp_path)
    assert read_significance(path)["t"].to_list() == [math.inf]


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_only_raises_keeps_order_and_stays_a_probability(ps):
    corrected = holm(ps)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@given(st.lists(st.none() | st.floats(), max_size=8))
def test_mean_std_of_anything(values):
    result = mean_std(values)
    finite = [v for v in values if v is not None and math.isfinite(v)]
    assert result.n == len(finite)
    assert (result.mean is None) == (not finite)
    assert (result.std is None) == (len(finite) < 2)
    if finite:
        assert min(finite) <= result.mean <= max(finite)


def test_mean_std_is_the_sample_deviation():
    result = mean_std([1.0, 2.0, 4.0, math.nan, None])
    assert (result.mean, result.n) == (pytest.approx(7 / 3), 3)
    assert result.std == pytest.approx(statistics.stdev([1, 2, 4]))


def test_types_of_an_empty_table_are_those_of_a_full_one(campaign, study):
    assert significance([], campaign).schema == significance(study, campaign).schema
    assert significance([], campaign).schema["better"] == pl.Boolean
