"""The results as a Hugging Face data set folder, ready to be pushed; nothing here touches the network."""

import shlex
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.matrix import leaderboard
from prefect_campaign.results.select import best_result, of_stage, result_stage
from prefect_campaign.results.text import DASH, clean, code, markdown, number, one_line, spread

TAG = "prefect-campaign"
"""Marks a card as ours: a folder without it is never replaced."""

CONTENT = {
    "all_results.parquet": ("all_results", "Full phase, long format: one row per experiment and final metric."),
    "all_results.csv": (None, "The same as CSV."),
    "pilot_results.csv": ("pilot_results", "The same columns for the pilot stages; not results."),
    "not_comparable.csv": ("not_comparable", "Experiments in which a fix changed what is measured: leave them out."),
    "significance_tests.csv": ("significance_tests", "Paired tests against the best baseline, Holm-corrected."),
    "experiment_log.csv": ("experiment_log", "One row per experiment: command, state, objective, notes."),
}
"""File -> (configuration of the data set, what it holds). Other files of the results folder stay at home."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def stage_dataset(results_folder: Path, campaign: Campaign, views: Sequence[ExperimentView], target: Path) -> Path:
    """Build the data set folder: ``README.md`` (the card) and ``data/``.

    It is built beside `target` and then put in its place, so `target` is never half written. The log holds
    command lines, host names and notes: read it before pushing to a public repo.

    Args:
        results_folder: where the tables named in `CONTENT` lie; missing ones are left out.
        campaign: gives licence, title and tags.
        views: all experiments, for the card's numbers.
        target: the folder to make or to replace.

    Returns:
        `target`.

    Raises:
        Refused: `target` exists and is not a folder that was staged here before.
    """
    if target.exists() and not _is_ours(target):
        raise Refused(f"{target}: exists and was not staged by this program; move it away or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    old = fresh.with_suffix(".old")
    try:
        (fresh / "data").mkdir(parents=True)
        present = [name for name in CONTENT if (results_folder / name).is_file()]
        for name in present:
            shutil.copyfile(results_folder / name, fresh / "data" / name)
        (fresh / "README.md").write_text(card(campaign, views, fresh / "data", present), encoding="utf-8")
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def card(campaign: Campaign, views: Sequence[ExperimentView], data: Path, files: Sequence[str]) -> str:
    """The data set card: YAML front matter as the Hub reads it, then what the data is.

    Args:
        campaign: the spec.
        views: all experiments.
        data: folder with the files.
        files: names in `CONTENT` that are there.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    title = one_line(campaign.publish.title or campaign.name)
    rows = {name: _rows_in(data / name) for name in files}
    configs = [
        {"config_name": CONTENT[name][0], "data_files": f"data/{name}"}
        for name in files
        # The Hub's viewer cannot tell the column types of a CSV without rows.
        if CONTENT[name][0] and (rows[name] or name.endswith(".parquet"))
    ]
    if configs:
        configs[0]["default"] = True  # type: ignore[assignment]
    total = sum(rows.values())
    meta = DatasetCardData(
        license=one_line(campaign.publish.license),
        pretty_name=title,
        tags=list(dict.fromkeys([TAG, "experiments", *map(one_line, campaign.publish.tags)])),
        size_categories=[next((size for limit, size in _SIZES if total < limit), "1M<n<10M")],
        configs=configs,
    )
    body = "\n".join([f"# {markdown(title)}", "", *_body(campaign, views, rows)])
    return clean(str(DatasetCard(f"---\n{meta.to_yaml()}\n---\n\n{body}\n")))


def _body(campaign: Campaign, views: Sequence[ExperimentView], rows: dict[str, int]) -> list[str]:
    objective = campaign.objective
    done = [v for v in views if v.state == ExperimentState.DONE]
    full = sum(v.phase == FULL for v in done)
    stage = result_stage(views)
    best = best_result(of_stage(views, stage), objective.mode)
    commits = sorted({v.git_commit for v in views if v.git_commit})
    command = campaign.command if isinstance(campaign.command, str) else shlex.join(campaign.command)
    lines = [markdown(campaign.question), ""] if campaign.question else []
    lines += [
        f"Results of the experiment campaign {campaign.name}: {len(views)} experiments, {len(done)} finished "
        f"({full} of the full phase, {len(done) - full} pilots). Objective: {markdown(objective.metric)}, "
        f"{'higher' if objective.mode == 'max' else 'lower'} is better.",
        "",
        "## Best results",
        "",
    ]
    if best is None:
        lines.append("No finished, comparable experiment has a finite value yet.")
    else:
        lines += [
            f"Stage {stage}: {code(best.exp_id)} with {number(best.objective_value)}.",
            "",
            "| dataset | configuration | mean ± std | seeds |",
            "| --- | --- | --- | --- |",
        ]
        top: dict[str | None, dict[str, Any]] = {}
        for row in leaderboard(views, campaign, stage):
            if row["mean"] is not None:
                top.setdefault(row["dataset"], row)
        lines += [
            f"| {markdown(d or DASH)} | {markdown(r['label'])} | {spread(r['mean'], r['std'])} | {r['n']} |"
            for d, r in top.items()
        ]
    lines += ["", "## Files", "", "| file | rows | content |", "| --- | --- | --- |"]
    lines += [f"| `data/{name}` | {n} | {CONTENT[name][1]} |" for name, n in rows.items()]
    lines += [
        "",
        "Columns of the results: `exp_id`, `method`, `dataset`, `group`, `metric`, `seed`, `value`, `host`, `gpu`, "
        "`finished_at` (UTC, ISO 8601).",
        "",
        "## Reproduction",
        "",
        f"- Command: {code(command)}",
        f"- Git commit: {', '.join(map(code, commits)) or 'not recorded'}",
    ]
    return lines


def _is_ours(target: Path) -> bool:
    """Whether the folder is empty or has a card with our tag."""
    from huggingface_hub import DatasetCard

    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        found = DatasetCard.load(target / "README.md", ignore_metadata_errors=False).data.to_dict()
    except (OSError, ValueError):
        return False
    return TAG in (found.get("tags") or [])


def _rows_in(path: Path) -> int:
    import polars as pl

    if path.suffix == ".parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    return pl.read_csv(path, infer_schema=False).height
