"""Plots: the objective by method with every seed shown, and learning curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect_campaign.decide.compare import is_baseline
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.files import replacing, write_text
from prefect_campaign.results.select import (
    Configuration,
    configurations,
    rank_key,
    result_stage,
    stages,
)
from prefect_campaign.results.statistics import mean_std
from prefect_campaign.results.text import one_line

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito, "Color universal design" (2008), told apart with any colour vision; brown for the last."""

MAX_ROWS = 24
MAX_CURVES = len(PALETTE)
MAX_DATASETS = 6
MAX_POINTS = 200
LABEL_LENGTH = 36

Points = list[tuple[float, float]]


def write_plots(
    views: Sequence[ExperimentView],
    campaign: Campaign,
    curves: Mapping[str, Sequence[MetricRow]],
    folder: Path,
) -> list[Path]:
    """Draw what there is to draw, as PNG (twice the size) and SVG.

    Args:
        views: experiments; the objective plot shows the most advanced stage with results.
        campaign: names the objective and its direction.
        curves: exp_id -> metric rows over time.
        folder: where ``objective.png/.svg`` and ``curves.png/.svg`` go.

    Returns:
        The files written; none for a plot without data (an older file of that name stays).
    """
    charts = {"objective": _objective_chart(views, campaign), "curves": _curves_chart(views, campaign, curves)}
    return [path for name, chart in charts.items() if chart is not None for path in _save(chart, folder / name)]


def _objective_chart(views: Sequence[ExperimentView], campaign: Campaign) -> Any:
    """Methods as rows, one panel per dataset: seeds as open circles, mean ± std on top."""
    import altair as alt

    mode = campaign.objective.mode
    found = [c for c in configurations(views, campaign, result_stage(views)) if c.values]
    if not found:
        return None
    names = _names(found)
    datasets = list(dict.fromkeys(c.dataset for c in found))[:MAX_DATASETS]
    means: dict[str, list[float]] = {}
    for c in found:
        means.setdefault(names[id(c)], []).append(mean_std(c.values.values()).mean or 0.0)
    order = sorted(means, key=lambda n: rank_key(mean_std(means[n]).mean, mode))
    shown = order[:MAX_ROWS]
    values: list[dict[str, Any]] = []
    for c in found:
        if names[id(c)] not in shown or c.dataset not in datasets:
            continue
        result = mean_std(c.values.values())
        # One kind of mark per row of data: Vega-Lite facets need all layers to share it.
        base = {"method": names[id(c)], "dataset": _dataset(c), "group": c.group}
        values += [{**base, "seed": s, "value": v} for s, v in c.values.items()]
        mean, std = result.mean or 0.0, result.std or 0.0
        values.append({**base, "mean": mean, "low": mean - std, "high": mean + std})
    groups = sorted({v["group"] for v in values}, key=lambda g: (is_baseline(g), g))
    x: dict[str, Any] = {
        "type": "quantitative",
        "scale": alt.Scale(zero=False, nice=False, padding=14),
        "axis": alt.Axis(tickCount=6, labelOverlap="greedy", labelSeparation=8),
    }
    y = alt.Y("method:N", sort=shown, title=None, axis=alt.Axis(labelLimit=260, ticks=False, domain=False))
    color = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=[PALETTE[i % len(PALETTE)] for i in range(len(groups))]),
        legend=alt.Legend(title=None, orient="top", symbolType="diamond", symbolOpacity=1) if len(groups) > 1 else None,
    )
    base_chart = alt.Chart().encode(y=y, color=color)
    metric = one_line(campaign.objective.metric, 60)
    layers = alt.layer(
        base_chart.transform_filter("isValid(datum.mean)")
        .mark_rule(strokeWidth=2.5, strokeCap="round", yOffset=-3)
        .encode(x=alt.X("low", title=metric, **x), x2="high"),
        base_chart.transform_filter("isValid(datum.value)")
        .mark_point(size=36, opacity=0.7, strokeWidth=1.4, filled=False, yOffset=6)
        .encode(x=alt.X("value", **x)),
        base_chart.transform_filter("isValid(datum.mean)")
        .mark_point(shape="diamond", size=95, filled=True, opacity=1, stroke="white", strokeWidth=1, yOffset=-3)
        .encode(x=alt.X("mean", **x)),
    ).properties(width=330 if len(datasets) > 1 else 520, height=alt.Step(30))
    best = "higher" if mode == "max" else "lower"
    note = [f"Circles: seeds. Diamond and line: mean ± std. Best first ({best} is better)."]
    note += _left_out(len(order), len(shown), found)
    return _finished(layers, values, datasets, f"{metric} by method", note, resolve_y=False)


def _curves_chart(
    views: Sequence[ExperimentView], campaign: Campaign, curves: Mapping[str, Sequence[MetricRow]]
) -> Any:
    """One line per method, the mean over seeds, with the range of the seeds around it."""
    import altair as alt

    usable = {v.exp_id for v in views if v.state in (ExperimentState.DONE, ExperimentState.RUNNING) and v.comparable}
    chosen = curve_metric({k: rows for k, rows in curves.items() if k in usable}, campaign.objective.metric)
    if chosen is None:
        return None
    metric, series = chosen
    drawn = {v.stage for v in views if v.exp_id in series}
    stage = next(s for s in stages(views) if s in drawn)
    found = [c for c in configurations(views, campaign, stage) if any(v.exp_id in series for v in c.views)]
    names = _names(found)
    datasets = list(dict.fromkeys(c.dataset for c in found))[:MAX_DATASETS]
    scores: dict[str, list[float | None]] = {}
    for c in found:
        scores.setdefault(names[id(c)], []).append(mean_std(c.values.values()).mean)
    order = sorted(scores, key=lambda n: rank_key(mean_std(scores[n]).mean, campaign.objective.mode))
    shown = order[:MAX_CURVES]
    values = [
        {"method": names[id(c)], "dataset": _dataset(c), "step": step, "mean": mean, "low": low, "high": high}
        for c in found
        if names[id(c)] in shown and c.dataset in datasets
        for step, mean, low, high in mean_curve([series[v.exp_id] for v in c.views if v.exp_id in series])
    ]
    scale = alt.Scale(domain=shown, range=list(PALETTE[: len(shown)]))
    # Dashes help where many colours lie close together.
    dashes = alt.Scale(domain=shown, range=[[1, 0] if i < 4 else [6, 3] for i in range(len(shown))])
    legend = alt.Legend(
        title=None,
        orient="right",
        labelLimit=260,
        symbolType="stroke",
        symbolStrokeWidth=2.5,
        symbolSize=300,
        symbolOpacity=1,
        symbolFillColor="transparent",
    )
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="step", scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickCount=6)),
        color=alt.Color("method:N", scale=scale, legend=legend),
    )
    title = one_line(metric, 60)
    layers = alt.layer(
        base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(
            y="mean:Q", strokeDash=alt.StrokeDash("method:N", scale=dashes, legend=legend)
        ),
    ).properties(width=330 if len(datasets) > 1 else 560, height=260)
    note = ["Line: mean over seeds. Band: lowest to highest seed."]
    note += _left_out(len(order), len(shown), found)
    return _finished(layers, values, datasets, f"{title} while running", note, resolve_y=True)


def curve_metric(curves: Mapping[str, Sequence[MetricRow]], objective: str) -> tuple[str, dict[str, Points]] | None:
    """Choose the metric to draw over time, and its finite points by experiment.

    Candidates are metrics of the objective's last name part (``final/accuracy`` -> ``val/accuracy``,
    ``train_accuracy``); if there are none, losses. Among those with two steps or more in at least one
    experiment, held-out data comes before training data, then what most experiments have.
    """
    series: dict[str, dict[str, Points]] = {}
    for exp_id, rows in curves.items():
        points: dict[str, dict[float, float]] = {}
        for index, row in enumerate(rows):
            step = float(index) if row.step is None else float(row.step)
            for name, value in row.values.items():
                if math.isfinite(step) and math.isfinite(value):
                    points.setdefault(name, {})[step] = float(value)  # a step told twice: the last one counts
        for name, at in points.items():
            if len(at) >= 2:
                series.setdefault(name, {})[exp_id] = sorted(at.items())
    for wanted in (objective.rsplit("/", 1)[-1].lower(), "loss"):
        like = [n for n in series if (last := n.rsplit("/", 1)[-1].lower()) == wanted or last.endswith(f"_{wanted}")]
        if like:
            name = min(like, key=lambda n: (n != objective, "train" in n.lower(), -len(series[n]), n))
            return name, series[name]
    return None


def mean_curve(seeds: Sequence[Points]) -> list[tuple[float, float, float, float]]:
    """Mean, lowest and highest of several curves at common steps, as (step, mean, low, high).

    Curves told at different steps are interpolated linearly. Steps are those told, or `MAX_POINTS` evenly
    spaced ones where there are more. A curve counts only between its own first and last step.
    """
    import numpy as np

    steps = np.array(sorted({step for points in seeds for step, _ in points}))
    if len(steps) > MAX_POINTS:
        steps = np.linspace(steps[0], steps[-1], MAX_POINTS)
    rows = [np.interp(steps, [s for s, _ in p], [v for _, v in p], left=math.nan, right=math.nan) for p in seeds]
    columns = ((float(step), [float(r[i]) for r in rows]) for i, step in enumerate(steps))
    told = ((step, [v for v in column if math.isfinite(v)]) for step, column in columns)
    return [(s, mean_std(c).mean or 0.0, min(c), max(c)) for s, c in told if c]


def _names(found: Sequence[Configuration]) -> dict[int, str]:
    """A short, distinct name for each label, by the id of its configuration."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for configuration in found:
        if configuration.label not in names:
            short, number = _short(configuration.label), 2
            name = short
            while name in taken:
                name = f"{short} #{number}"
                number += 1
            names[configuration.label] = name
            taken.add(name)
    return {id(c): names[c.label] for c in found}


def _short(label: str) -> str:
    """Both ends of a long label: its end tells configurations of one method apart."""
    if len(label) <= LABEL_LENGTH:
        return label or "(no name)"
    return f"{label[: LABEL_LENGTH // 2]}…{label[1 - LABEL_LENGTH // 2 :]}"


def _left_out(methods: int, shown: int, found: Sequence[Configuration]) -> list[str]:
    """What a plot does not show, one sentence each."""
    datasets = len({c.dataset for c in found})
    left = [f"Only the best {shown} of {methods} configurations are shown."] if methods > shown else []
    return left + (
        [f"Only the first {MAX_DATASETS} of {datasets} datasets are shown."] if datasets > MAX_DATASETS else []
    )


def _dataset(configuration: Configuration) -> str:
    return one_line("all" if configuration.dataset is None else configuration.dataset, LABEL_LENGTH)


def _finished(
    layers: Any, values: list[dict[str, Any]], datasets: Sequence[Any], title: str, note: list[str], *, resolve_y: bool
) -> Any:
    """Panels, title and theme."""
    import altair as alt

    chart = layers.properties(data=alt.Data(values=values))
    if len(datasets) > 1:
        header = alt.Header(title=None, labelFontSize=13, labelFontWeight="bold", labelLimit=300)
        chart = layers.facet(
            facet=alt.Facet("dataset:N", header=header, sort=list(dict.fromkeys(v["dataset"] for v in values))),
            columns=2,
            data=alt.Data(values=values),
        ).resolve_scale(x="independent", y="independent" if resolve_y else "shared")
    head = alt.TitleParams(title, subtitle=note, anchor="start", fontSize=16, offset=14, subtitlePadding=6)
    font = "Helvetica, Arial, 'Liberation Sans', sans-serif"
    return (
        chart.properties(title=head, padding=16, background="white")
        .configure(font=font)
        .configure_view(stroke="#d5d9de")
        .configure_axis(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
            gridColor="#eceef1",
            domainColor="#b8bec6",
            tickColor="#b8bec6",
            labelColor="#333",
            titleColor="#333",
        )
        .configure_legend(labelFontSize=12)
        .configure_title(subtitleFontSize=12, subtitleColor="#555")
    )


def _save(chart: Any, stem: Path) -> list[Path]:
    import vl_convert

    # validate=False: checking a spec that this module wrote costs ten times what drawing it does.
    spec = chart.to_dict(validate=False)
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    png = stem.with_suffix(".png")
    with replacing(png) as temporary:
        temporary.write_bytes(vl_convert.svg_to_png(svg, scale=2))
    return [png, write_text(stem.with_suffix(".svg"), svg)]
