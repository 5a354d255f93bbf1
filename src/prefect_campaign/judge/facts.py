"""What rules may look at in one run: its metrics, the tail of its log, and the functions over them."""

import fnmatch
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prefect_campaign.judge.expressions import ExpressionError, Language, Value, show

LOG_LINES = 120
"""Last log lines that rules look at."""
LOG_LINE_MAX = 2000
"""Characters of one log line that rules look at."""
PATTERN_MAX = 200
"""Characters of a glob or a regular expression."""


@dataclass(frozen=True)
class RunFacts:
    """One run as rules see it.

    Attributes:
        metrics: metric name to its points (step or None, value), oldest first; values may be nan or inf.
        objective: name of the objective metric.
        log_tail: last lines of the log. They are data: rules can count matches in them, nothing more.
        state: state of the experiment, e.g. ``running``.
        exp_id: which experiment it is.
    """

    metrics: dict[str, list[tuple[float | None, float]]]
    objective: str
    log_tail: list[str] = field(default_factory=list)
    state: str = "running"
    exp_id: str = ""


def metric_names(facts: RunFacts, patterns: Iterable[Value]) -> list[str]:
    """Names of the metrics that match any of the globs (case does not matter), in their order.

    ``$objective`` stands for the objective metric. A pattern that is a metric's exact name means this one.
    """
    wanted = [facts.objective if p == "$objective" else p for p in patterns]
    exact = {name for name in wanted if name in facts.metrics}
    globs = [_pattern(p).lower() for p in wanted if p not in exact and p != facts.objective]
    return [
        name
        for name in facts.metrics
        if name in exact or any(fnmatch.fnmatchcase(name.lower(), glob) for glob in globs)
    ]


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean that cannot overflow on the way; nan when there are no values."""
    values = list(values)
    return sum(v / len(values) for v in values) if values else math.nan


def _values(facts: RunFacts, name: Value) -> list[float]:
    if not isinstance(name, str):
        raise ExpressionError(f"a metric's name is text, not {show(name)}")
    return [value for _, value in facts.metrics.get(name, [])]


def _pattern(text: Value) -> str:
    if not isinstance(text, str) or len(text) > PATTERN_MAX:
        raise ExpressionError(f"a pattern is text of at most {PATTERN_MAX} characters")
    return text


def _last(facts: RunFacts, metric: Value) -> float:
    return (_values(facts, metric) or [math.nan])[-1]


def _last_step(facts: RunFacts, metric: Value) -> float | None:
    points = facts.metrics.get(metric, []) if isinstance(metric, str) else []
    return points[-1][0] if points else None


def _any_non_finite(facts: RunFacts, pattern: Value) -> bool:
    names = metric_names(facts, [pattern])
    return any(not math.isfinite(v) for name in names for v in _values(facts, name))


def _steps(facts: RunFacts, pattern: Value = "*") -> int:
    """Number of points in the longest metric that matches."""
    return max((len(facts.metrics[n]) for n in metric_names(facts, [pattern])), default=0)


def _latest(facts: RunFacts, pattern: Value, count: Value = 3) -> str:
    """The latest values of the first `count` metrics that match, the objective before the others."""
    if not isinstance(count, int) or not 1 <= count <= 20:
        raise ExpressionError("the number of metrics is 1 to 20")
    names = metric_names(facts, [pattern])
    names.sort(key=lambda name: name != facts.objective)
    return ", ".join(f"{show(name)[:40]} {show(_last(facts, name))}" for name in names[:count])


def _matches(facts: RunFacts, regex: Value) -> int:
    """Number of log lines in which `regex` is found.

    The engine is Rust's (through polars): its time is linear in the text, so no line that a job writes can
    make a pattern run away. It has no look-around and no back-references.
    """
    import polars as pl

    lines = [line[:LOG_LINE_MAX].encode(errors="replace").decode() for line in facts.log_tail[-LOG_LINES:]]
    try:
        return int(pl.Series(lines, dtype=pl.String).str.contains(_pattern(regex)).sum())
    except pl.exceptions.PolarsError as error:
        raise ExpressionError(f"not a usable regular expression: {show(str(error))}") from None


def _extreme(choose: Callable[[Iterable[float]], float]) -> Callable[..., Value]:
    """`min` and `max`: of one metric's finite values by its name, or of several numbers."""

    def function(facts: RunFacts, first: Value, *more: Value) -> float:
        if isinstance(first, str) and not more:
            finite = [v for v in _values(facts, first) if math.isfinite(v)]
            return choose(finite) if finite else math.nan
        return choose([_number(value) for value in (first, *more)])

    return function


def _number(value: Value) -> float:
    if not isinstance(value, int | float):
        raise ExpressionError(f"a number is needed, not {show(value)}")
    return value


def _length(_: object, value: Value) -> int:
    if not isinstance(value, str | tuple):
        raise ExpressionError(f"text or a list is needed, not {show(value)}")
    return len(value)


PLAIN_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "abs": lambda _, x: abs(_number(x)),
    "is_finite": lambda _, x: isinstance(x, int | float) and math.isfinite(x),
    "len": _length,
}
"""Functions that need no facts."""

RUN = Language(
    names={"exp_id", "objective", "state", "alerts"},
    functions={
        **PLAIN_FUNCTIONS,
        "any_non_finite": _any_non_finite,
        "count": lambda facts, metric: len(_values(facts, metric)),
        "has": lambda facts, metric: bool(_values(facts, metric)),
        "last": _last,
        "last_step": _last_step,
        "latest": _latest,
        "matches": _matches,
        "max": _extreme(max),
        "mean": lambda facts, metric: mean(_values(facts, metric)),
        "mean_before_last": lambda facts, metric: mean(_values(facts, metric)[:-1]),
        "min": _extreme(min),
        "steps": _steps,
    },
)
"""The language of monitor rules. ``alerts`` is the number of alerts raised by the rules above."""
