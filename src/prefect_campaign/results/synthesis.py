"""The pilot's synthesis: what a person reads before answering the gate, as Markdown."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefect_campaign.decide.compare import count, number, seed_stats
from prefect_campaign.decide.estimate import CostEstimate
from prefect_campaign.decide.options import gate_options
from prefect_campaign.decide.pilot import PilotDecision
from prefect_campaign.decide.verdicts import Failure, Row, StageVerdict
from prefect_campaign.model.plan import Plan
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.files import write_text
from prefect_campaign.results.text import DASH, clean, markdown, one_line

FILE_NAME = "pilot_synthesis.md"
COLUMNS = ("exp_id", "dimension", "dataset", "method", "primary metric", "baseline", "delta", "pass")
COLUMNS_AT_GATE = ("exp_id", "primary metric", "baseline", "delta", "pass")
"""What fits into the width of the gate's form; the id says the rest."""

_MOST_ROWS = 60
_MOST_ROWS_AT_GATE = 20
_MOST_TEXT = 300


def synthesis_markdown(
    campaign: Campaign,
    plan: Plan,
    verdicts: Sequence[StageVerdict],
    decision: PilotDecision,
    cost: CostEstimate,
    review_markdown: str | None,
    *,
    commit: str | None,
    dirty: bool,
    iteration: int,
    round_: int,
    notes: Sequence[str] = (),
) -> str:
    """The whole synthesis: overview, results, failures, recommendation, options, cost, design review.

    Args:
        campaign: the spec.
        plan: the iteration's plan; its hash is shown, because an approval is bound to it.
        verdicts: of the stages that ran, in order.
        decision: what `decide.pilot.decide_pilot` found.
        cost: what `decide.estimate.estimate_full_hours` found.
        review_markdown: the design review's record, put in as it is (its headings made smaller); None if
            there was none.
        commit: git commit of the code; None outside a repository.
        dirty: whether the tree has local changes.
        iteration: number of this iteration, from 1.
        round_: number of this round, from 1.
        notes: what else is to be known about the tree, such as which files have changes; one line each.
    """
    review = re.sub(r"(?m)^#{1,2}(?= )", "###", review_markdown.strip()) if review_markdown else ""
    sections = [
        _title(campaign, plan, commit, dirty, iteration, round_, notes),
        _overview(campaign, verdicts, decision),
        _results(campaign, verdicts, _MOST_ROWS, COLUMNS),
        _failures(verdicts),
        _recommendation(decision),
        _options(campaign, verdicts, decision, cost, dirty, iteration),
        _cost(campaign, cost),
        f"## Design review\n\n{review or 'No design review was made.'}",
    ]
    return "\n\n".join(sections) + "\n"


def gate_markdown(
    campaign: Campaign,
    plan: Plan,
    verdicts: Sequence[StageVerdict],
    decision: PilotDecision,
    cost: CostEstimate,
    *,
    commit: str | None,
    dirty: bool,
    iteration: int,
    round_: int,
    notes: Sequence[str] = (),
) -> str:
    """The short form above the gate's form: at most 20 rows, and neither failures nor review in detail.

    Takes the same arguments as `synthesis_markdown`.
    """
    sections = [
        _title(campaign, plan, commit, dirty, iteration, round_, notes),
        _overview(campaign, verdicts, decision),
        _results(campaign, verdicts, _MOST_ROWS_AT_GATE, COLUMNS_AT_GATE),
        _recommendation(decision),
        _options(campaign, verdicts, decision, cost, dirty, iteration),
        _cost(campaign, cost),
    ]
    return "\n\n".join(sections) + "\n"


def write_synthesis(text: str, folder: str | os.PathLike[str]) -> Path:
    """Write `text` as ``pilot_synthesis.md`` in `folder`, all of it or nothing.

    Returns:
        The file's path.

    Raises:
        OSError: the folder cannot be written; an older file is left as it was.
    """
    return write_text(Path(folder) / FILE_NAME, clean(text))


def _title(
    campaign: Campaign,
    plan: Plan,
    commit: str | None,
    dirty: bool,
    iteration: int,
    round_: int,
    notes: Sequence[str],
) -> str:
    tree = f"commit `{_code(commit[:12])}`" if commit else "no commit"
    if dirty:
        tree += " **with local changes**"
    where = f"Round {round_}, iteration {iteration}, plan `{plan.plan_hash}`, {tree}."
    told = "".join(f"\n- Tree: {markdown(note)}." for note in notes)
    return f"# Pilot synthesis: {markdown(campaign.name)}\n\n{where}" + (f"\n{told}" if told else "")


def _overview(campaign: Campaign, verdicts: Sequence[StageVerdict], decision: PilotDecision) -> str:
    judged = [r for v in verdicts for r in v.rows if r.passed is not None]
    ids = {r.exp_id for v in verdicts for r in v.rows}
    failed = {f.exp_id for v in verdicts for f in v.failures}
    checks = len(decision.passed) + len(decision.failed)
    good = sum(bool(r.passed) for r in judged)
    lines = [
        "## Overview",
        "",
        f"- Experiments: {len(ids)} total, {len(ids) - len(failed)} with a result, {len(failed)} without.",
        f"- Candidates: {len(judged)} total, {good} passed, {len(judged) - good} failed.",
        f"- Checks: {checks} total, {len(decision.passed)} passed, {len(decision.failed)} failed.",
        f"- Best: {_best(campaign, decision.best)}",
    ]
    if decision.blocked:
        lines.append(f"- On hold, to be decided first: {_ids(decision.blocked)}.")
    if decision.not_run:
        lines.append(f"- Pilot stages that did not run: {markdown(', '.join(decision.not_run))}.")
    return "\n".join(lines)


def _best(campaign: Campaign, best: Row | None) -> str:
    if best is None:
        return "none, because no candidate has a result that counts."
    on = f" on {markdown(best.dataset)}" if best.dataset is not None else ""
    value = f"`{_code(best.exp_id)}`{on}, {markdown(campaign.objective.metric)} = {number(best.value)}"
    return f"{value}, baseline {number(best.baseline)}, delta {number(best.delta, sign=True)}."


def _results(campaign: Campaign, verdicts: Sequence[StageVerdict], most: int, columns: Sequence[str]) -> str:
    rows = [r for v in verdicts for r in v.rows]
    objective = campaign.objective
    note = f"Primary metric: {markdown(objective.metric)} ({objective.mode}). A delta above 0 is better."
    if len(rows) <= most:
        lines = [_line(r) for r in rows]
    else:
        groups = _by_configuration(rows)
        note += f" The {len(rows)} rows are summarised per configuration (mean ± std over seeds)"
        if len(groups) > most:
            note += f", of which the best {most} of {len(groups)} are shown"
            groups = sorted(groups, key=_best_first)[:most]
        note += "; `all_results.csv` has every result."
        lines = [_summary(g) for g in groups]
    head = [COLUMNS, ("---",) * 4 + ("---:",) * 3 + ("---",)]
    chosen = [COLUMNS.index(c) for c in columns]
    table = "\n".join("| " + " | ".join(cells[i] for i in chosen) + " |" for cells in (*head, *lines))
    return f"## Results\n\n{note}\n\n{table}"


def _line(row: Row) -> tuple[str, ...]:
    passed = {True: "yes", False: "no", None: DASH}[row.passed]
    return (*_names(row), number(row.value), number(row.baseline), number(row.delta, sign=True), passed)


def _summary(group: Sequence[Row]) -> tuple[str, ...]:
    first = group[0]
    exp_id, *names = _names(first)
    more = f" +{len(group) - 1}" if len(group) > 1 else ""
    value = seed_stats(r.value for r in group)
    spread = f" ± {number(value.std)}" if value.std_known else ""
    passed = DASH if first.passed is None else f"{sum(bool(r.passed) for r in group)}/{len(group)}"
    delta = number(_mean_delta(group), sign=True)
    return (exp_id + more, *names, number(value.mean) + spread, number(first.baseline), delta, passed)


def _names(row: Row) -> tuple[str, str, str, str]:
    return (
        f"`{_code(row.exp_id)}`",
        markdown(row.dimension),
        markdown(row.dataset if row.dataset is not None else DASH),
        markdown(row.method if row.method is not None else row.configuration),
    )


def _by_configuration(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for r in rows:
        key = (r.stage, r.check, r.dimension, r.configuration, r.dataset, r.method)
        groups.setdefault(key, []).append(r)
    return list(groups.values())


def _mean_delta(group: Sequence[Row]) -> float | None:
    return seed_stats(r.delta for r in group).mean


def _best_first(group: Sequence[Row]) -> tuple[bool, int, float]:
    """Judged before others, then passed, then the larger delta."""
    delta = _mean_delta(group)
    passed = sum(bool(r.passed) for r in group)
    return (group[0].passed is None, -passed, -delta if delta is not None else float("inf"))


def _failures(verdicts: Sequence[StageVerdict]) -> str:
    lines = [f"- {markdown(v.metric_missing.message)}" for v in verdicts if v.metric_missing is not None]
    for check in (c for v in verdicts for c in v.checks if not c.passed):
        meaning = f" If this fails it means {markdown(check.if_fails)}" if check.if_fails else ""
        core = "core check" if check.core else "check"
        lines.append(
            f"- {core.capitalize()} **{markdown(check.name)}** ({markdown(check.dimension)}), stage {check.stage}: "
            f"{markdown(check.reason)}.{meaning}"
        )
    causes: dict[tuple[str, str], list[Failure]] = {}
    for failure in (f for v in verdicts for f in v.failures):
        causes.setdefault((failure.state, failure.cause), []).append(failure)
    for (state, cause), found in causes.items():
        reasons = list(dict.fromkeys(markdown(one_line(f.reason, _MOST_TEXT)) for f in found if f.reason))
        told = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} other reasons" if reasons[3:] else "")
        named = markdown(cause) if cause == state else f"{state}, {markdown(cause)}"
        lines.append(f"- **{named}**: {len(found)} × ({_ids([f.exp_id for f in found])}) {told}".rstrip())
    return "## Failure analysis\n\n" + ("\n".join(lines) or "Nothing failed.")


def _recommendation(decision: PilotDecision) -> str:
    word = decision.recommendation or "None yet"
    return f"## Recommendation\n\n**{word}**\n\n{markdown(decision.reason)}"


def _options(
    campaign: Campaign,
    verdicts: Sequence[StageVerdict],
    decision: PilotDecision,
    cost: CostEstimate,
    dirty: bool,
    iteration: int,
) -> str:
    laid_out = gate_options(campaign, verdicts, decision, cost, dirty=dirty, iteration=iteration)
    lines = ["## Options", "", markdown(laid_out.background), ""]
    for option in laid_out.options:
        lines.append(f"- **{option.answer}**: {markdown(option.meaning)}.")
        lines.append(f"    - For: {markdown('; '.join(option.speaks_for) or 'nothing in the numbers')}.")
        lines.append(f"    - Against: {markdown('; '.join(option.against) or 'nothing in the numbers')}.")
    if laid_out.recommended is None:
        lines += ["", "Recommended: no answer yet, for the reason given under Recommendation."]
    else:
        lines += [
            "",
            f"Recommended: **{laid_out.recommended}**, because the numbers say {decision.recommendation}.",
        ]
    return "\n".join(lines)


def _cost(campaign: Campaign, cost: CostEstimate) -> str:
    unit = "GPU h" if campaign.resources.gpus else "slot h"
    per = f" ({number(cost.mean_hours)} {unit} per experiment on average)" if cost.mean_hours else ""
    asked = f"{number(cost.total_hours)} {unit}{per}" if cost.total_hours is not None else "unknown"
    size = f"{count(cost.experiments, 'experiment')} on {count(cost.datasets, 'dataset')}"
    lines = [f"- Used so far: {number(cost.used_hours)} {unit}.", f"- Asked: {asked} for {size}."]
    if cost.wall_clock_hours is not None:
        lines.append(f"- By the clock: about {number(cost.wall_clock_hours)} h with {cost.slots} at a time.")
    if cost.price_used is not None:
        price = f"{cost.price:.2f}" if cost.price is not None else "unknown"
        lines.append(f"- Money: {cost.price_used:.2f} used, {price} asked, in {markdown(cost.currency)}.")
    if campaign.policy.budget.hours is not None:
        lines.append(f"- Budget: {number(campaign.policy.budget.hours)} {unit} in all.")
    lines.append(f"- Basis: {markdown(cost.basis)}.")
    return "## Cost\n\n" + "\n".join(lines)


def _ids(exp_ids: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(exp_ids) - limit} more" if len(exp_ids) > limit else ""
    return ", ".join(f"`{_code(e)}`" for e in exp_ids[:limit]) + more


def _code(value: str) -> str:
    return value.replace("`", "'").replace("|", "\\|")
