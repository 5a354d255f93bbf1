"""Vega-Lite charts of a run: filling in its metrics, refusing what must not be rendered, rendering."""

import math
from typing import Any

from prefect_campaign.judge.expressions import show
from prefect_campaign.judge.facts import RunFacts

MAX_POINTS = 500
"""Points of one metric in a chart."""
MAX_ROWS = 1500
"""Points of all metrics together, so that a chart stays within its size limit."""
MAX_METRICS = 12
MAX_PIXELS = 4000
"""Width or height of a view."""

_METRICS = {"name": "metrics"}
_DATA_KEYS = {"name", "values", "format"}


def fill_metrics(spec: dict[str, Any], facts: RunFacts) -> dict[str, Any]:
    """A copy of `spec` in which every ``data: {name: metrics}`` holds the run's metrics.

    The rows are ``{metric, step, value}``, see `metric_rows`.
    """
    rows = metric_rows(facts)

    def filled(node: Any) -> Any:
        if isinstance(node, list):
            return [filled(item) for item in node]
        if isinstance(node, dict):
            return {
                key: {**_METRICS, "values": rows} if key == "data" and value == _METRICS else filled(value)
                for key, value in node.items()
            }
        return node

    result: dict[str, Any] = filled(spec)
    return result


def metric_rows(facts: RunFacts) -> list[dict[str, str | float]]:
    """The run's finite metric values as rows ``{metric, step, value}``.

    The objective comes first, then losses, then the rest, at most `MAX_METRICS` of them and `MAX_POINTS`
    points each. A metric with one value has no course and is left out, unless none has one. Where a metric has
    a point without a step, its points are numbered instead.
    """
    names = sorted(facts.metrics, key=lambda n: (n != facts.objective, "loss" not in n.lower(), n))
    finite = {n: sum(math.isfinite(v) for _, v in facts.metrics[n]) for n in names}
    least = 2 if max(finite.values(), default=0) > 1 else 1
    names = [n for n in names if finite[n] >= least][:MAX_METRICS]
    limit = min(MAX_POINTS, MAX_ROWS // max(1, len(names)))
    return [
        {"metric": show(name)[:80], "step": step, "value": value}
        for name in names
        for step, value in _thinned(_finite_points(facts.metrics[name]), limit)
    ]


def problem_of(spec: Any) -> str | None:
    """Why a specification must not be rendered; None if it may.

    Data is inline only: no ``url`` anywhere (data, images, links) and no generators, whose size a few
    characters can blow up.
    """
    if isinstance(spec, list):
        return next((p for p in map(problem_of, spec) if p), None)
    if not isinstance(spec, dict):
        return None
    for key, value in spec.items():
        if key in ("url", "href"):
            return f"{key!r} is not allowed: a chart has inline data only and fetches nothing"
        if key in ("width", "height"):
            size = value.get("step") if isinstance(value, dict) else value
            if isinstance(size, int | float) and not 0 <= size <= MAX_PIXELS:
                return f"{key} is beyond {MAX_PIXELS} pixels"
        if key == "values" and isinstance(value, list):
            continue  # rows of data, not parts of the specification
        if problem := problem_of(value):
            return problem
        if key == "data" and isinstance(value, dict) and (other := set(value) - _DATA_KEYS):
            return f"data may have name, values and format only, not {min(map(str, other))!r}"
    return None


def render(spec: dict[str, Any]) -> tuple[bytes, bytes]:
    """PNG and SVG of a Vega-Lite specification; takes about a second the first time in a process.

    Raises:
        ValueError: the specification does not render.
    """
    import vl_convert

    try:
        png = vl_convert.vegalite_to_png(spec, scale=1.5, allowed_base_urls=[])
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    except Exception as error:  # the library raises whatever its JavaScript engine raises
        raise ValueError(f"does not render: {show(str(error))}") from None
    return png, svg.encode()


def _finite_points(points: list[tuple[float | None, float]]) -> list[tuple[float, float]]:
    stepped = all(step is not None and math.isfinite(step) for step, _ in points)
    numbered = [(step if stepped and step is not None else i, value) for i, (step, value) in enumerate(points)]
    # Six digits are more than a picture can show.
    return [(step, float(f"{value:.6g}")) for step, value in numbered if math.isfinite(value)]


def _thinned(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return points
    stretches = limit // 2
    kept: set[int] = set()
    for i in range(stretches):
        stretch = range(i * len(points) // stretches, (i + 1) * len(points) // stretches)
        kept |= {min(stretch, key=lambda j: points[j][1]), max(stretch, key=lambda j: points[j][1])}
    return [points[j] for j in sorted(kept)]
