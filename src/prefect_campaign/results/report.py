"""The campaign's report, as Markdown and as one self-contained HTML page."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prefect_campaign import __version__
from prefect_campaign.decide.vram import Compared
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.files import write_text
from prefect_campaign.results.hosts import HostLine
from prefect_campaign.results.matrix import design_matrix, leaderboard
from prefect_campaign.results.select import best_result, current_stage, of_stage, result_stage, stages
from prefect_campaign.results.statistics import read_significance
from prefect_campaign.results.text import (
    DASH,
    clean,
    code,
    difference,
    duration,
    markdown,
    number,
    one_line,
    p_value,
    spread,
    when,
)

if TYPE_CHECKING:
    import polars as pl

RECENT = 20
MOST_ROWS = 50
"""Longer leaderboards and lists are cut here, and say so; the CSV files have all."""

ALPHA = 0.05
"""Below it a corrected p is called significant."""

_SHOWN_ELSEWHERE = {"plan_hash", "git_commit", "hours", "question"}


def write_report(
    views: Sequence[ExperimentView],
    campaign: Campaign,
    folder: Path,
    *,
    plots: Sequence[Path] = (),
    synthesis_path: Path | None = None,
    significance: "pl.DataFrame | Path | None" = None,
    gate: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    memory: Sequence[Compared] = (),
    hosts: Sequence[HostLine] = (),
) -> Path:
    """Write ``report.md`` and ``report.html``; the same input gives the same bytes.

    Args:
        views: all experiments of the campaign's round.
        campaign: the spec.
        folder: where both files go.
        plots: images that `write_plots` wrote; SVG goes into the page, PNG is linked from the Markdown.
        synthesis_path: the pilot synthesis, if there is one; put into the page, linked from the Markdown.
        significance: table of `statistics.significance`, or the file it was written to.
        gate: latest question at the gate: asked_at, answer, by, reason, plan_hash; unknown keys are ignored.
        summary: plan_hash, git_commit, hours (device hours used); any other plain value becomes a line.
        memory: GPU memory of every shape, in MiB; empty where no GPUs were used, and then nothing is said about it.
        hosts: what came of their checks; empty where there is nothing to tell.

    Returns:
        The path of ``report.html``; ``report.md`` lies beside it.
    """
    context = _context(views, campaign, folder, significance, gate or {}, summary or {})
    context["memory"] = {"rows": memory[:MOST_ROWS], "left_out": max(0, len(memory) - MOST_ROWS)}
    context["hosts"] = hosts
    context["images"] = [
        {"name": p.stem, "link": _link(p, folder)} for p in plots if p.suffix == ".png" and p.is_file()
    ]
    context["synthesis_link"] = _link(synthesis_path, folder) if synthesis_path else None
    write_text(folder / "report.md", _render("report.md.j2", context, escape=False))
    context["drawings"] = [_inline_svg(p) for p in plots if p.suffix == ".svg" and p.is_file()]
    context["synthesis"] = _rendered(synthesis_path)
    write_text(folder / "report.html", _render("report.html.j2", context, escape=True))
    return folder / "report.html"


def _render(template: str, context: Mapping[str, Any], *, escape: bool) -> str:
    """A filled template; Markdown is not escaped here but by its own filter ``md``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prefect_campaign.results", "templates"),
        autoescape=escape,  # noqa: S701 - on for HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "md": markdown,
        "code": code,
        "p": p_value,
        "when": _moment,
        "duration": duration,
    }
    text = environment.get_template(template).render(context)
    return clean(re.sub(r"\n{3,}", "\n\n", text)).strip() + "\n"


def _context(
    views: Sequence[ExperimentView],
    campaign: Campaign,
    folder: Path,
    significance: "pl.DataFrame | Path | None",
    gate: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """All that both templates show."""
    stage = result_stage(views)
    counts = Counter(str(v.state) for v in views)
    ended = sorted((v for v in views if v.ended_at is not None), key=lambda v: (-(v.ended_at or 0), v.exp_id))
    tests = read_significance(significance) if isinstance(significance, Path) else significance
    board = leaderboard(views, campaign, stage)
    top: dict[str | None, dict[str, Any]] = {}
    for row in board:
        if row["mean"] is not None:
            top.setdefault(row["dataset"], row)
    hours = summary.get("hours")
    matrices = [design_matrix(views, campaign, s) for s in stages(views)]
    opened = current_stage(views)
    return {
        "campaign": campaign,
        "title": one_line(campaign.publish.title or campaign.name),
        "objective": campaign.objective,
        "counts": [(s, counts[s]) for s in map(str, ExperimentState) if counts[s]],
        "total": len(views),
        "hours": sum(v.busy_seconds for v in views) / 3600 if hours is None else float(hours),
        "facts": [(k.replace("_", " "), one_line(v)) for k, v in summary.items() if _is_fact(k, v)],
        "as_of": _moment(max((v.updated_at for v in views), default=None)),
        "stage": stage,
        "is_full": any(v.phase == FULL for v in of_stage(views, stage)),
        "best": best_result(of_stage(views, stage), campaign.objective.mode),
        "top": list(top.values()),
        # The matrix of what runs now comes first, those of stages before it follow.
        "matrices": [m for m in matrices if m.stage == opened or _started(views, m.stage)],
        "board": board[:MOST_ROWS],
        "board_left_out": max(0, len(board) - MOST_ROWS),
        "tests": [] if tests is None else tests.to_dicts(),
        "recent": ended[:RECENT],
        "changed": _cut([v for v in views if v.changes or not v.comparable]),
        "failed": _cut([v for v in views if v.state in (ExperimentState.FAILED, ExperimentState.ON_HOLD)]),
        "gate": {k: gate.get(k) for k in ("asked_at", "answered_at", "answer", "by", "reason", "plan_hash")},
        "has_gate": any(gate.get(k) for k in ("asked_at", "answer")),
        "plan_hash": summary.get("plan_hash") or gate.get("plan_hash"),
        "commits": sorted({c for c in (summary.get("git_commit"), *(v.git_commit for v in views)) if c}),
        "command": campaign.command if isinstance(campaign.command, str) else shlex.join(campaign.command),
        "seeds": ", ".join(map(str, sorted({v.seed for v in views}))),
        "machines": sorted({" · ".join(filter(None, (v.host, v.gpu))) for v in views if v.host}),
        "version": __version__,
        "alpha": ALPHA,
        "spread": spread,
        "dash": DASH,
        "difference": difference,
        "one_line": one_line,
    }


def _is_fact(key: str, value: object) -> bool:
    return key not in _SHOWN_ELSEWHERE and isinstance(value, str | int | float) and value != ""


def _started(views: Sequence[ExperimentView], stage: str | None) -> bool:
    return any(v.started_at is not None for v in of_stage(views, stage))


def _cut(views: list[ExperimentView]) -> dict[str, Any]:
    """The first rows of a list that may be long, and how many were left out."""
    return {"rows": views[:MOST_ROWS], "left_out": max(0, len(views) - MOST_ROWS)}


def _moment(value: object) -> str:
    """A time for people, from seconds since the epoch or from text that already is one."""
    if isinstance(value, int | float):
        return when(value).replace("T", " ").replace("Z", " UTC")
    return one_line(value) if value else ""


def _link(path: Path, folder: Path) -> str:
    return quote(os.path.relpath(path, folder))


def _inline_svg(path: Path) -> Any:
    """A drawing as part of a page: without XML header and name spaces, its ids unlike those of others."""
    from markupsafe import Markup

    svg = re.sub(r"^.*?(?=<svg)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    prefix = re.sub(r"\W", "-", path.stem)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return Markup(svg)  # noqa: S704 - drawn by this package; labels were escaped by the renderer


def _rendered(path: Path | None) -> Any:
    """Markdown as HTML that can hold no markup of its own and loads nothing."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    if path is None or not path.is_file():
        return None
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    return Markup(renderer.render(path.read_text(encoding="utf-8", errors="replace")))  # noqa: S704 - html is off
