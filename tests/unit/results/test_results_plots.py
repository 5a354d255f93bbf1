import math
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from prefect_campaign.model.records import MetricRow
from prefect_campaign.results.plots import LABEL_LENGTH, MAX_POINTS, curve_metric, mean_curve, write_plots


def rising(offset=0.0, n=5, name="val/accuracy"):
    return [MetricRow({name: offset + i / 10}, step=i) for i in range(n)]


def texts(svg):
    return ["".join(e.itertext()) for e in ElementTree.parse(svg).iter() if e.tag.endswith("}text")]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_both_plots_as_png_and_svg(campaign, study, tmp_path):
    curves = {v.exp_id: rising() for v in study}

    paths = write_plots(study, campaign, curves, tmp_path)

    assert [p.name for p in paths] == ["objective.png", "objective.svg", "curves.png", "curves.svg"]
    for png, svg in (paths[:2], paths[2:]):
        root = ElementTree.parse(svg).getroot()
        width, height = png_size(png)
        assert (width, height) == (2 * float(root.get("width")), 2 * float(root.get("height")))
        assert 700 < width < 2600
        assert {"d1", "d2", "ours", "tent", "source"} <= set(texts(svg))
    assert "final/accuracy by method" in texts(paths[1])
    assert "val/accuracy while running" in texts(paths[3])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_every_seed_is_a_point_and_every_method_a_mean(campaign, study, tmp_path):
    svg = write_plots([v for v in study if v.dataset == "d1"], campaign, {}, tmp_path)[1].read_text()
    assert svg.count('aria-roledescription="point"') == 9 + 3


def test_best_method_is_on_top_in_either_direction(make_campaign_with, study, tmp_path):
    for mode, wanted in (("max", ["ours", "tent", "source"]), ("min", ["source", "tent", "ours"])):
        campaign = make_campaign_with(objective={"metric": "m", "mode": mode})
        svg = write_plots(study, campaign, {}, tmp_path)[1]
        assert [t for t in texts(svg) if t in wanted][:3] == wanted


def test_nothing_to_draw_draws_nothing(campaign, view, tmp_path):
    spoilt = [view(objective_value=math.nan), view(seed=1, comparable=False), view(seed=2, state="failed")]
    curves = {spoilt[0].exp_id: [MetricRow({"val/accuracy": math.nan}, step=i) for i in range(3)]}
    assert write_plots([], campaign, {}, tmp_path) == []
    assert write_plots(spoilt, campaign, curves, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_hostile_and_long_names_are_drawn(campaign, view, hostile, tmp_path):
    long = "x" * 200
    views = [view(m, hostile, s) for m in (hostile, long + "1", long + "2") for s in range(2)]
    for svg in write_plots(views, campaign, {v.exp_id: rising() for v in views}, tmp_path)[1::2]:
        assert "<script>" not in svg.read_text()
        assert any("<script>" in t for t in texts(svg))
        labels = [t for t in texts(svg) if t.startswith("xxx")]
        assert len(set(labels)) == 2
        assert all(len(t) <= LABEL_LENGTH for t in labels)


def test_many_methods_are_cut_and_it_says_so(campaign, view, tmp_path):
    views = [view(f"m{i:02}", "d1", 0, objective_value=i / 100) for i in range(40)]
    svg = write_plots(views, campaign, {v.exp_id: rising() for v in views}, tmp_path)
    assert "Only the best 24 of 40 configurations are shown." in " ".join(texts(svg[1]))
    assert "m39" in texts(svg[1])
    assert "m01" not in texts(svg[1])
    assert "Only the best 8 of 40 configurations are shown." in " ".join(texts(svg[3]))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["train/accuracy", "val/accuracy", "val/loss"], "val/accuracy"),
        (["train/accuracy", "loss"], "train/accuracy"),
        (["val_accuracy", "lr"], "val_accuracy"),
        (["train/loss", "val/loss", "lr"], "val/loss"),
        (["lr", "grad_norm"], None),
        (["inaccuracy"], None),
    ],
)
def test_the_curve_is_of_the_objective_or_else_a_loss(names, chosen):
    rows = [MetricRow(dict.fromkeys(names, float(i)), step=i) for i in range(3)]
    found = curve_metric({"e": rows}, "final/accuracy")
    assert (found and found[0]) == chosen


def test_one_step_is_no_curve_and_what_is_not_finite_is_left_out():
    once = [MetricRow({"accuracy": 0.5}, step=3), MetricRow({"accuracy": 0.6}, step=3)]
    assert curve_metric({"e": once}, "accuracy") is None

    rows = [MetricRow({"accuracy": v}, step=s) for s, v in [(0, 0.1), (1, math.nan), (2, 0.3), (math.nan, 1.0)]]
    assert curve_metric({"e": rows}, "accuracy") == ("accuracy", {"e": [(0.0, 0.1), (2.0, 0.3)]})


def test_rows_without_steps_are_counted():
    rows = [MetricRow({"accuracy": v}) for v in (0.1, 0.2)]
    assert curve_metric({"e": rows}, "accuracy") == ("accuracy", {"e": [(0.0, 0.1), (1.0, 0.2)]})


def test_mean_curve_joins_seeds_told_at_other_steps():
    curve = mean_curve([[(0, 0.0), (2, 2.0)], [(0, 1.0), (1, 2.0)]])
    assert curve == [(0.0, 0.5, 0.0, 1.0), (1.0, 1.5, 1.0, 2.0), (2.0, 2.0, 2.0, 2.0)]


def test_long_curves_are_thinned():
    curve = mean_curve([[(i, float(i)) for i in range(10_000)]])
    assert len(curve) == MAX_POINTS
    assert curve[0][:2] == (0.0, 0.0)
    assert curve[-1][:2] == (9999.0, 9999.0)
