import math

import pytest

from prefect_campaign.results.matrix import design_matrix, leaderboard
from prefect_campaign.results.select import best_result, configurations, current_stage, result_stage, stages


def test_cells_hold_mean_std_and_live_counts(campaign, view):
    views = [
        view(seed=0, objective_value=0.9),
        view(seed=1, objective_value=0.8),
        view(seed=2, state="running", objective_value=None),
        view("tent", "d1", 0, state="failed", objective_value=None),
        view("tent", "d2", 0, objective_value=0.7),
    ]

    matrix = design_matrix(views, campaign)

    assert (matrix.rows, matrix.columns) == (("ours", "tent"), ("d1", "d2"))
    cell = matrix.cells["ours", "d1"]
    assert cell.counts == {"running": 1, "done": 2}
    assert (cell.text, cell.progress, cell.best) == ("0.8500 ± 0.0707", "2/3 done, 1 running", True)
    assert matrix.cells["tent", "d1"].text == "–"
    assert matrix.to_markdown().splitlines() == [
        "|  | d1 | d2 |",
        "| --- | --- | --- |",
        "| ours | **0.8500 ± 0.0707** (2/3 done, 1 running) | – |",
        "| tent | – (0/1 done, 1 failed) | **0.7000** (1/1) |",
    ]


def test_what_is_not_comparable_or_finite_is_counted_but_not_averaged(campaign, view):
    views = [
        view(seed=0, objective_value=0.5),
        view(seed=1, objective_value=0.9, comparable=False),
        view(seed=2, objective_value=math.inf),
    ]
    cell = design_matrix(views, campaign).cells["ours", "d1"]
    assert (cell.text, cell.result.n, cell.counts) == ("0.5000", 1, {"done": 3})


@pytest.mark.parametrize(("mode", "first"), [("max", "ours"), ("min", "source")])
def test_leaderboard_is_best_first_in_the_right_direction(make_campaign_with, study, mode, first):
    campaign = make_campaign_with(objective={"metric": "final/accuracy", "mode": mode})
    rows = leaderboard(study, campaign)
    means = [r["mean"] for r in rows]
    assert rows[0]["method"] == first
    assert means == sorted(means, reverse=mode == "max")
    assert [r["rank"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert {(r["n"], r["planned"]) for r in rows} == {(3, 3)}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_missing_or_non_finite_value_never_wins(make_campaign_with, view, mode, value):
    campaign = make_campaign_with(objective={"metric": "m", "mode": mode})
    views = [view("bad", objective_value=value), view("good", objective_value=0.5)]

    rows = leaderboard(views, campaign)

    assert [(r["method"], r["rank"]) for r in rows] == [("good", 1), ("bad", None)]
    assert best_result(views, mode) is views[1]
    assert design_matrix(views, campaign).cells["good", "d1"].best
    assert not design_matrix(views, campaign).cells["bad", "d1"].best


def test_difference_is_against_the_best_baseline_of_the_dataset(make_campaign_with, campaign, view):
    views = [
        view("ours", objective_value=0.9),
        view("tent", objective_value=0.7),
        view("source", objective_value=0.8),
        view("ours", "d2", objective_value=0.6),
    ]
    rows = {(r["method"], r["dataset"]): r for r in leaderboard(views, campaign)}
    assert rows["ours", "d1"]["delta"] == pytest.approx(0.1)
    assert rows["ours", "d1"]["baseline"] == "source"
    assert rows["ours", "d2"]["delta"] is None

    reported = make_campaign_with(objective={"metric": "m", "baseline": 0.5})
    rows = {(r["method"], r["dataset"]): r for r in leaderboard(views, reported)}
    assert (rows["ours", "d2"]["delta"], rows["ours", "d2"]["baseline"]) == (pytest.approx(0.1), "reported value")


def test_a_broken_baseline_is_not_replaced_by_the_reported_value(make_campaign_with, view):
    campaign = make_campaign_with(objective={"metric": "m", "baseline": 0.5})
    views = [view("ours"), view("tent", state="failed", objective_value=None)]
    assert leaderboard(views, campaign)[0]["delta"] is None


def test_configurations_are_never_averaged_together(campaign, view):
    views = [
        view(
            seed=s,
            exp_id=f"{lr}{s}",
            objective_value=lr + s / 100,
            params={"method": "ours", "dataset": "d1", "lr": lr},
        )
        for lr in (0.1, 0.5)
        for s in range(2)
    ]
    assert [(r["label"], r["n"]) for r in leaderboard(views, campaign)] == [("ours [lr=0.5]", 2), ("ours [lr=0.1]", 2)]
    cell = design_matrix(views, campaign).cells["ours", "d1"]
    assert (cell.configurations, cell.result.mean) == (2, pytest.approx(0.505))


def test_labels_without_a_method_axis(make_campaign_with, view):
    campaign = make_campaign_with(
        command="run --lr {lr}", sweep={"grid": {"lr": [1, 2], "seed": [0]}}, groups={}, args={}
    )
    views = [view(None, None, exp_id=f"e{lr}", group="main", params={"lr": lr}) for lr in (1, 2)]
    assert [c.label for c in configurations(views, campaign, "full")] == ["lr=1", "lr=2"]
    assert [c.label for c in configurations(views[:1], campaign, "full")] == ["main"]
    assert design_matrix(views, campaign).columns == ("all",)


def test_equal_looking_parameters_of_other_types_are_other_configurations(campaign, view):
    views = [view(exp_id=str(i), params={"flag": p}) for i, p in enumerate([1, True, "1"])]
    assert len(configurations(views, campaign, "full")) == 3


def test_the_stage_shown_is_the_most_advanced_one_that_says_something(campaign, view):
    pilot, planned = view(phase="pilot", objective_value=0.3), view(state="planned", objective_value=None)
    assert stages([pilot, planned]) == ["full", "minimal"]
    assert (current_stage([pilot, planned]), result_stage([pilot, planned])) == ("minimal", "minimal")
    running = view(state="running", objective_value=None)
    assert (current_stage([pilot, running]), result_stage([pilot, running])) == ("full", "minimal")
    assert design_matrix([pilot, running], campaign).stage == "full"
    assert leaderboard([pilot, running], campaign)[0]["mean"] == 0.3
    assert (current_stage([]), result_stage([])) == (None, None)


def test_empty_campaign(campaign):
    assert design_matrix([], campaign).to_markdown() == "No experiments."
    assert leaderboard([], campaign) == []


def test_hostile_names_do_not_break_the_table(campaign, view, hostile):
    lines = design_matrix([view(hostile, hostile)], campaign).to_markdown().splitlines()
    assert len(lines) == 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {3}
    assert "<script>" not in lines[2]
