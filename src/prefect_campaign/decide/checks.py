"""Judging one check of a pilot stage: does its best configuration hold up against the baseline?"""

import math
from collections.abc import Sequence

from prefect_campaign.decide.compare import (
    Baseline,
    Mode,
    best_baseline,
    best_of,
    finite,
    improvement,
    is_baseline,
    number,
    result_of,
    seed_stats,
)
from prefect_campaign.decide.pass_rule import NO_CANDIDATES, delta_cause, shared, value_cause, why_no_result
from prefect_campaign.decide.verdicts import Cell, CheckVerdict, Row
from prefect_campaign.model.plan import matches, values_of
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign, Check, Objective, Selector
from prefect_campaign.model.sweep import Scalar

_SHOWN_DATASETS = 6
_SHOWN_IDS = 4
_NOTHING = "failed: it matches no experiment of this stage; check its 'only' (default: group main)"


def judge_check(
    campaign: Campaign, stage: str, check: Check, views: Sequence[ExperimentView], *, core: bool
) -> tuple[CheckVerdict, list[Row]]:
    """Judge `check` on the experiments of one stage.

    A candidate configuration is all parameters but the seed and the dataset. On one dataset it passes when
    its mean over seeds beats the best baseline there: delta >= min_delta, delta > 2 x std over seeds, and
    delta >= noise_floor; for the claim "equality", when it is not worse by more than the larger of min_delta
    and noise_floor. A check with `against` compares with those experiments instead of the baselines. Without
    anything to compare with it passes with a finite result that reaches the target, if one is set.

    Over its datasets a configuration passes when it passes on more than half of them (one without a result
    does not pass) and its mean delta over them passes the same rule, with the root mean square of the stds.
    The check passes with its best configuration: a passing one before others, then the one with results on
    more datasets, then the larger mean delta (or mean value, without baselines).

    Args:
        campaign: the spec.
        stage: name of the stage.
        check: what is judged. Its candidates are never baselines, unless it selects nothing else: then they
            are compared with the reported value (a reproduction check).
        views: all experiments of the stage, baselines included.
        core: whether the stage depends on this check.

    Returns:
        The verdict, and one row per candidate experiment.
    """
    objective = campaign.objective
    candidates = candidates_of(campaign, check, views)
    baselines = {d: _to_beat(campaign, check, candidates, views, d) for d in {v.dataset for v in candidates}}

    outcomes: list[_Outcome] = []
    rows: dict[str, Row] = {}
    for members in _by_configuration(campaign, candidates):
        cells = []
        for dataset in dict.fromkeys(v.dataset for v in members):
            runs = [v for v in members if v.dataset == dataset]
            cell = _cell(objective, check, dataset, runs, baselines[dataset])
            cells.append(cell)
            for run in runs:
                rows[run.exp_id] = _candidate_row(campaign, stage, check, run, cell)
        outcomes.append(_Outcome(label_of(campaign, members[0]), tuple(cells), objective, check))

    best = max(outcomes, key=lambda o: o.rank, default=None)
    verdict = CheckVerdict(
        stage=stage,
        name=check.name,
        dimension=check.dimension,
        core=core,
        mandatory=check.mandatory,
        passed=best is not None and not best.cause,
        cause=best.cause if best else NO_CANDIDATES,
        reason=best.explain(len(outcomes)) if best else _NOTHING,
        configuration=best.label if best else "",
        cells=best.cells if best else (),
        delta=best.delta if best else None,
        if_fails=check.if_fails,
    )
    return verdict, [rows[v.exp_id] for v in candidates]


def candidates_of(campaign: Campaign, check: Check, views: Sequence[ExperimentView]) -> list[ExperimentView]:
    """The experiments that `check` judges; group main if it names none."""
    found = _selected(campaign, check.only or {"group": ["main"]}, views)
    return [v for v in found if not is_baseline(v.group)] or found


def _to_beat(
    campaign: Campaign,
    check: Check,
    candidates: Sequence[ExperimentView],
    views: Sequence[ExperimentView],
    dataset: str | None,
) -> Baseline:
    """What the candidates are compared with on one dataset: the experiments of `against`, else the best baseline."""
    if check.against is not None:
        rivals = [v for v in _selected(campaign, check.against, views) if v.dataset == dataset]
        # With nobody to beat there is no licence to pass, nor with a value measured elsewhere.
        return best_of(campaign.objective, rivals) if rivals else Baseline("failed")
    rivals = [] if all(is_baseline(v.group) for v in candidates) else list(views)
    return best_baseline(campaign.objective, rivals, dataset)


def _selected(campaign: Campaign, selector: Selector, views: Sequence[ExperimentView]) -> list[ExperimentView]:
    return [view for view in views if matches(selector, values_of(view, campaign))]


def label_of(campaign: Campaign, view: ExperimentView) -> str:
    """A configuration in words: its swept parameters without dataset and seed, e.g. ``svm, C=1``."""
    sweep = campaign.sweep
    method, dataset = sweep.axis_of("method"), sweep.axis_of("dataset")
    roles = (method, dataset, sweep.axis_of("seed"))
    axes = [*sweep.axes, *(["trial"] if sweep.optuna_search else [])]
    parts = [view.method] if view.method is not None else []
    parts += [f"{a}={view.params[a]}" for a in axes if a not in roles and a in view.params]
    return ", ".join(parts) or view.group


class _Outcome:
    """One configuration over all its datasets."""

    def __init__(self, label: str, cells: tuple[Cell, ...], objective: Objective, check: Check) -> None:
        self.label = label
        self.cells = cells
        self.mode: Mode = objective.mode
        self.target = objective.target
        deltas = [c.delta for c in cells if c.delta is not None]
        self.delta = seed_stats(deltas).mean
        self.passes = sum(c.passed for c in cells)
        self.cause = ""
        if self.delta is not None:
            self.cause = delta_cause(self.delta, _pooled_std(cells), objective, check)
        if not self.cause and 2 * self.passes <= len(cells):
            self.cause = shared(c.cause for c in cells if not c.passed)

    @property
    def rank(self) -> tuple[bool, bool, int, float]:
        """Sorts the best configuration last."""
        measured = [c.stats.mean for c in self.cells if c.stats.mean is not None]
        mean = seed_stats(measured).mean
        value = -math.inf if mean is None else mean if self.mode == "max" else -mean
        score = value if self.delta is None else self.delta
        return (not self.cause, self.delta is not None, len(measured), score)

    def explain(self, rivals: int) -> str:
        """One sentence with numbers and exp_ids."""
        verdict = "passed" if not self.cause else f"failed ({self.cause})"
        shown = [self._evidence(c) for c in self.cells[:_SHOWN_DATASETS]]
        if len(self.cells) > _SHOWN_DATASETS:
            shown.append(f"and {len(self.cells) - _SHOWN_DATASETS} more datasets")
        over = ""
        if len(self.cells) > 1:
            over = f"passes on {self.passes} of {len(self.cells)} datasets"
            if self.delta is not None:
                over += f", mean delta {number(self.delta, sign=True)}"
            over += ": "
        choice = f" (best of {rivals} configurations)" if rivals > 1 else ""
        return f"{verdict} with {self.label}{choice}: {over}{'; '.join(shown)}"

    def _evidence(self, cell: Cell) -> str:
        where = f"{cell.dataset}: " if cell.dataset is not None else ""
        base = cell.baseline
        if cell.stats.mean is None:
            return f"{where}no result that counts ({cell.cause})"
        spread = f"std {number(cell.stats.std)} over {cell.stats.n} seeds"
        if not cell.stats.std_known:
            spread = "one seed, std unknown"
        got = f"{where}{number(cell.stats.mean)} ({spread}; {id_list(cell.exp_ids)})"
        if base.kind == "failed":
            return f"{got}, but no baseline has a result that counts ({id_list(base.exp_ids)})"
        if base.kind == "none":
            if not finite(self.target):
                return f"{got}, no baseline to compare with: any finite result passes"
            hit = "reached" if cell.passed else "not reached"
            return f"{got}, no baseline to compare with: target {number(self.target)} {hit}"
        return f"{got} against {number(base.value)} ({base.label}), delta {number(cell.delta, sign=True)}"


def id_list(exp_ids: Sequence[str], limit: int = _SHOWN_IDS) -> str:
    """The first few ids, and how many more there are."""
    more = f" and {len(exp_ids) - limit} more" if len(exp_ids) > limit else ""
    return ", ".join(exp_ids[:limit]) + more


def _cell(
    objective: Objective, check: Check, dataset: str | None, runs: Sequence[ExperimentView], base: Baseline
) -> Cell:
    stats = seed_stats(map(result_of, runs))
    delta = improvement(stats.mean, base.value, objective.mode)
    if stats.mean is None:
        cause = shared(map(why_no_result, runs))
    else:
        cause = value_cause(stats.mean, stats.std, base, objective, check)
    counted = tuple(v.exp_id for v in runs if result_of(v) is not None)
    return Cell(dataset, counted, stats, base, delta, cause)


def _candidate_row(campaign: Campaign, stage: str, check: Check, run: ExperimentView, cell: Cell) -> Row:
    value = result_of(run)
    passed = value is not None and not value_cause(value, cell.stats.std, cell.baseline, campaign.objective, check)
    return Row(
        stage=stage,
        exp_id=run.exp_id,
        check=check.name,
        dimension=check.dimension,
        dataset=run.dataset,
        method=run.method,
        configuration=label_of(campaign, run),
        value=value,
        baseline=cell.baseline.value,
        delta=improvement(value, cell.baseline.value, campaign.objective.mode),
        passed=passed,
    )


def _pooled_std(cells: Sequence[Cell]) -> float:
    """Root mean square of the known stds over seeds; 0.0 if none is known."""
    known = [c.stats.std for c in cells if c.delta is not None and c.stats.std_known]
    return math.hypot(*known) / math.sqrt(len(known)) if known else 0.0


def _by_configuration(campaign: Campaign, views: Sequence[ExperimentView]) -> list[list[ExperimentView]]:
    """The views grouped by all parameters but the dataset (the seed is no parameter), in plan order."""
    dataset = campaign.sweep.axis_of("dataset")
    groups: dict[tuple[tuple[str, str], ...], list[ExperimentView]] = {}
    for view in views:
        # repr, so that 1, 1.0 and True stay apart
        params: dict[str, Scalar] = view.params
        key = tuple(sorted((k, repr(v)) for k, v in params.items() if k != dataset))
        groups.setdefault(key, []).append(view)
    return list(groups.values())
