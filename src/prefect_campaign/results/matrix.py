"""The design matrix (method x dataset) with live states, and the leaderboard."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect_campaign.decide.compare import Mode, finite, is_baseline
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.select import (
    configurations,
    current_stage,
    of_stage,
    rank_key,
    result_stage,
)
from prefect_campaign.results.statistics import MeanStd, mean_std
from prefect_campaign.results.text import DASH, markdown, one_line, spread

_ORDER = [str(s) for s in ExperimentState]


@dataclass(frozen=True)
class Cell:
    """What one method did on one dataset so far."""

    counts: dict[str, int]
    """State -> number of experiments, without zeros."""
    result: MeanStd
    """Over the seeds of the best configuration."""
    configurations: int = 1
    """How many differ in other parameters; the result is that of the best one."""
    best: bool = False
    """Whether no other row has a better mean in this column."""

    @property
    def progress(self) -> str:
        """E.g. ``3/3`` when all are done, ``1/3 done, 2 running`` before."""
        total, done = sum(self.counts.values()), self.counts.get(ExperimentState.DONE, 0)
        rest = [f"{n} {s.replace('_', ' ')}" for s, n in self.counts.items() if s != ExperimentState.DONE]
        return f"{done}/{total}" if not rest else f"{done}/{total} done, {', '.join(rest)}"

    @property
    def text(self) -> str:
        """``mean ± std``, or a dash."""
        return spread(self.result.mean, self.result.std)


@dataclass(frozen=True)
class Matrix:
    """Rows are methods (groups, where there is no method axis), columns are datasets."""

    metric: str
    mode: Mode
    stage: str | None
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """A Markdown table; the best mean of each column is bold."""
        if not self.rows:
            return "No experiments."
        head = ["", *map(markdown, self.columns)]
        lines = [_line(head), _line(["---"] * len(head))]
        for row in self.rows:
            texts = []
            for column in self.columns:
                cell = self.cells.get((row, column))
                if cell is None:
                    texts.append(DASH)
                    continue
                value = f"**{cell.text}**" if cell.best else cell.text
                more = f", best of {cell.configurations} configurations" if cell.configurations > 1 else ""
                texts.append(f"{value} ({cell.progress}{more})")
            lines.append(_line([markdown(row), *texts]))
        return "\n".join(lines)


def design_matrix(views: Sequence[ExperimentView], campaign: Campaign, stage: str | None = None) -> Matrix:
    """The matrix of one stage, by default the most advanced one that was opened.

    Values are means over seeds of done, comparable, finite results; counts are of all experiments.
    """
    stage = stage or current_stage(views)
    mode = campaign.objective.mode
    counts: dict[tuple[str, str], Counter[str]] = {}
    for view in of_stage(views, stage):
        counts.setdefault(_key(view.method, view.group, view.dataset), Counter())[str(view.state)] += 1
    results: dict[tuple[str, str], list[MeanStd]] = {}
    for c in configurations(views, campaign, stage):
        results.setdefault(_key(c.method, c.group, c.dataset), []).append(mean_std(c.values.values()))
    chosen = {k: min(found, key=lambda r: rank_key(r.mean, mode)) for k, found in results.items()}
    top: dict[str, float | None] = {}
    for (_, column), result in chosen.items():
        top[column] = min(top.get(column), result.mean, key=lambda m: rank_key(m, mode))
    cells = {
        key: Cell(
            counts={s: counter[s] for s in sorted(counter, key=_ORDER.index)},
            result=chosen[key],
            configurations=len(results[key]),
            best=chosen[key].mean is not None and chosen[key].mean == top[key[1]],
        )
        for key, counter in counts.items()
    }
    rows, columns = (tuple(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    return Matrix(campaign.objective.metric, mode, stage, rows, columns, cells)


def leaderboard(views: Sequence[ExperimentView], campaign: Campaign, stage: str | None = None) -> list[dict[str, Any]]:
    """All configurations of one stage, best mean first; those without a result come last.

    Args:
        views: experiments of the campaign.
        campaign: names the objective and its direction.
        stage: default: the most advanced stage with results.

    Returns:
        Rows with rank (None without a result), label, method, dataset, group, params (those in which
        configurations of the cell differ), mean, std, n (seeds that count), planned (seeds in all), delta
        (mean minus the dataset's best baseline, or minus the reported value where none is run; None without
        either) and baseline (what that is).
    """
    mode = campaign.objective.mode
    found = [(c, mean_std(c.values.values())) for c in configurations(views, campaign, stage or result_stage(views))]
    found.sort(key=lambda pair: (rank_key(pair[1].mean, mode), pair[0].label, pair[0].dataset or ""))
    baselines: dict[str | None, tuple[str, float]] = {}
    for configuration, result in found:
        if is_baseline(configuration.group) and result.mean is not None:
            baselines.setdefault(configuration.dataset, (configuration.label, result.mean))
    run = {c.dataset for c, _ in found if is_baseline(c.group)}
    objective = campaign.objective
    reported = ("reported value", objective.baseline) if finite(objective.baseline) else (None, None)
    rows = []
    for rank, (configuration, result) in enumerate(found, start=1):
        label, value = baselines.get(configuration.dataset, reported)
        if configuration.dataset in run and configuration.dataset not in baselines:
            label, value = None, None  # a broken baseline is not replaced by a number measured elsewhere
        delta = None if result.mean is None or value is None else result.mean - value
        rows.append(
            {
                "rank": None if result.mean is None else rank,
                "label": configuration.label,
                "method": configuration.method,
                "dataset": configuration.dataset,
                "group": configuration.group,
                "params": configuration.params,
                "mean": result.mean,
                "std": result.std,
                "n": result.n,
                "planned": len(configuration.views),
                "delta": delta,
                "baseline": label,
            }
        )
    return rows


def _key(method: str | None, group: str, dataset: str | None) -> tuple[str, str]:
    """Row and column of an experiment; the campaign's only column has no name where there is no dataset axis."""
    return one_line(group if method is None else method), one_line("all" if dataset is None else dataset)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
