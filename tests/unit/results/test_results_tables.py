import csv
import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from prefect_campaign.results.all_results import all_results, not_comparable, pilot_results, write_all_results
from prefect_campaign.results.files import replacing, write_text

COLUMNS = ["exp_id", "method", "dataset", "group", "metric", "seed", "value", "host", "gpu", "finished_at"]


def test_one_row_per_done_experiment_and_final_metric(campaign, study):
    table = all_results(study, campaign)

    assert table.columns == COLUMNS
    assert table.height == len(study) * 2
    assert set(table["metric"]) == {"final/accuracy", "final/loss"}
    row = table.filter(pl.col("exp_id") == "ours_d1_main_s1", pl.col("metric") == "final/accuracy").to_dicts()
    expected = (0.918, 1, "NVIDIA A100", "2023-11-14T22:15:01Z")
    assert (row[0]["value"], row[0]["seed"], row[0]["gpu"], row[0]["finished_at"]) == expected


@pytest.mark.parametrize("state", ["planned", "ready", "running", "failed", "cancelled", "on_hold", "superseded"])
def test_only_done_experiments_are_results(campaign, view, state):
    assert all_results([view(state=state)], campaign).height == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_never_results(campaign, view, value):
    bad = view(objective_value=value, metrics={"final/accuracy": value, "final/loss": 0.25})

    assert all_results([bad], campaign)["metric"].to_list() == ["final/loss"]


def test_objective_of_another_name_is_a_result_too(make_campaign_with, view):
    campaign = make_campaign_with(objective={"metric": "best acc"})
    found = all_results([view(objective_value=0.7, metrics={"best acc": 0.7, "train/loss": 1.0})], campaign)

    assert found.select("metric", "value").rows() == [("best acc", 0.7)]


def test_pilots_are_kept_apart(campaign, view):
    views = [view(), view(phase="pilot", objective_value=0.1)]

    assert set(all_results(views, campaign)["exp_id"]) == {"ours_d1_main_s0"}
    assert set(pilot_results(views, campaign)["exp_id"]) == {"p1_ours_d1_main_s0"}


def test_order_does_not_depend_on_the_order_of_views(campaign, study):
    assert all_results(study, campaign).equals(all_results(study[::-1], campaign))


def test_not_comparable_experiments_are_named_with_what_changed(view):
    healed = view(comparable=False, changes=("batch_size 64 -> 32", "lr / 10"))

    table = not_comparable([view(seed=1), healed])

    assert table.select("exp_id", "changes").rows() == [("ours_d1_main_s0", "batch_size 64 -> 32; lr / 10")]


def test_hostile_names_come_back_as_they_were(campaign, view, hostile, tmp_path):
    write_all_results([view(method=hostile, gpu=None, exp_id="x")], campaign, tmp_path)

    wanted = hostile.replace("\x00", "").replace("\ud800", "?")
    with (tmp_path / "all_results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {r["method"] for r in rows} == {wanted}
    parquet = pl.read_parquet(tmp_path / "all_results.parquet")
    assert parquet["method"].to_list() == [wanted] * 2
    assert parquet["gpu"].to_list() == [None] * 2


def test_values_survive_csv_exactly(campaign, view, tmp_path):
    value = 0.1 + 0.2
    write_all_results([view(objective_value=value, metrics={"final/accuracy": value})], campaign, tmp_path)

    assert pl.read_csv(tmp_path / "all_results.csv")["value"].to_list() == [value]


def test_empty_campaign_still_has_valid_files(campaign, tmp_path):
    paths = write_all_results([], campaign, tmp_path / "new")

    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "new").iterdir())
    assert pl.read_csv(tmp_path / "new" / "all_results.csv").columns == COLUMNS
    parquet = pl.read_parquet(tmp_path / "new" / "all_results.parquet")
    assert (parquet.columns, parquet.height, parquet["value"].dtype) == (COLUMNS, 0, pl.Float64)


def test_a_time_that_no_calendar_has_is_empty(campaign, view):
    assert set(all_results([view(ended_at=1e300)], campaign)["finished_at"]) == {""}
    assert set(all_results([replace(view(), ended_at=None)], campaign)["finished_at"]) == {""}


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    path = write_text(tmp_path / "a.csv", "old")

    def fail_halfway():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
