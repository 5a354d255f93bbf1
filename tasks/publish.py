"""What people get to see: notes before launch, Prefect artifacts, and the files of the results folder."""

import asyncio
from collections import Counter
from pathlib import Path

from prefect import task
from prefect.artifacts import (
    acreate_link_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
)
from prefect.cache_policies import NO_CACHE

from prefect_campaign.engine.export import export
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger.observations import add_artifacts, note_experiment
from prefect_campaign.results.matrix import design_matrix, leaderboard


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and dashes."""
    text = "-".join(parts).lower()
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in text).split())


def write_hypotheses(setting: Setting, stage: str) -> None:
    """Give each experiment of a stage its note before launch: why, set-up, expected outcome."""
    objective = setting.campaign.objective
    with setting.ledger.write() as connection:
        for view in setting.views(stage):
            if view.hypothesis:
                continue
            group = setting.campaign.groups.get(view.group)
            why = view.purpose or setting.campaign.question or f"One point of campaign {setting.campaign.name}."
            setup = ", ".join(f"{k}={v}" for k, v in view.params.items())
            expected = (
                f"a reference value of {objective.metric}"
                if view.group.startswith("baseline")
                else f"{objective.metric} at least {objective.min_delta:g} better than the best baseline"
            )
            failing = f" If it fails: {group.if_fails}" if group and group.if_fails else ""
            note = f"Why: {why} Set-up: {setup}, seed {view.seed}. Expected: {expected}.{failing}"
            note_experiment(connection, setting.row.id, view.exp_id, hypothesis=note)


async def publish_progress(setting: Setting, stage: str) -> None:
    """Show how far a stage is, its leaderboard and the design matrix, as Prefect artifacts."""
    name = setting.campaign.name
    views = setting.views(stage)
    counts = Counter(v.state for v in views)
    over = sum(n for state, n in counts.items() if state in ("done", "failed", "cancelled", "superseded"))
    await acreate_progress_artifact(
        progress=100.0 * over / len(views) if views else 0.0,
        key=artifact_key(name, stage, "progress"),
        description=f"{stage}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items())),
    )
    table = leaderboard(views, setting.campaign, stage)
    if table:
        await acreate_table_artifact(
            table=table, key=artifact_key(name, stage, "leaderboard"), description=f"Leaderboard of stage {stage}"
        )
    await acreate_markdown_artifact(
        markdown=design_matrix(views, setting.campaign).to_markdown(),
        key=artifact_key(name, stage, "matrix"),
        description=f"Design matrix of stage {stage}",
    )


async def publish_text(setting: Setting, kind: str, markdown: str) -> None:
    """Show a Markdown text, such as the synthesis, as a Prefect artifact."""
    await acreate_markdown_artifact(
        markdown=markdown, key=artifact_key(setting.campaign.name, kind), description=f"{setting.campaign.name}: {kind}"
    )


@task(name="publish results", task_run_name="publish results", cache_policy=NO_CACHE, persist_result=False, retries=1)
async def publish_results(campaign: str, setting: Setting | None = None, status: str | None = None) -> str:
    """Write all results files, list them in the ledger, and link them from Prefect.

    Args:
        campaign: name of the campaign.
        setting: the open campaign, to spare opening it again.
        status: what the report calls the campaign, where that is about to change.

    Returns:
        The results folder.
    """
    if setting is None:
        from prefect_campaign.engine.setting import open_setting

        setting = open_setting(campaign)
    folder = Path(setting.results)
    paths = await asyncio.to_thread(export, setting.ledger, setting.campaign, folder, status=status)
    with setting.ledger.write() as connection:
        add_artifacts(
            connection,
            setting.row.id,
            [("plot" if p.suffix in (".png", ".svg") else "result", p.name, str(p)) for p in paths],
            now=setting.ledger.clock(),
        )
    report = folder / "report.md"
    if report.is_file():
        await publish_text(setting, "report", report.read_text())
    await acreate_link_artifact(
        link=(folder / "report.html").as_uri(), key=artifact_key(campaign, "results"), link_text=str(folder)
    )
    return str(folder)
