"""Judging a run by the monitoring skill: notes, tags, alerts and charts."""

import asyncio
import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from prefect_campaign.judge.artifacts import write_jit_tasks
from prefect_campaign.judge.facts import LOG_LINES, RunFacts
from prefect_campaign.judge.monitor import analyse as run_rules
from prefect_campaign.judge.schema import Decision
from prefect_campaign.judge.skills import Skill, load_skills
from prefect_campaign.ledger.observations import add_alert, add_artifacts, note_experiment
from prefect_campaign.ledger.queries import curves
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.ids import slug
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.tasks.setting import Setting
from prefect_campaign.watch.metrics import tail

MONITOR_SKILL = "training-monitor"


@task(name="analyse", task_run_name="analyse {exp_id}", cache_policy=NO_CACHE, persist_result=False, retries=1)
async def analyse_ended(setting_name: str, exp_id: str, setting: Any = None) -> list[str]:
    """Judge an experiment that is over, draw its charts, and show them as an artifact.

    Args:
        setting_name: name of the campaign.
        exp_id: the experiment.
        setting: the open `Setting`, to spare opening it again.

    Returns:
        Paths of what was written.
    """
    if setting is None:
        from prefect_campaign.tasks.setting import open_setting

        setting = open_setting(setting_name)
    decision, paths = await asyncio.to_thread(judge_run, setting, exp_id, charts=True)
    if decision is not None and paths:
        listed = "\n".join(f"- `{p}`" for p in paths)
        await acreate_markdown_artifact(
            key=slug(f"{setting_name}-{exp_id}-analysis").lower().replace("_", "-").replace(".", "-"),
            markdown=f"### {exp_id}\n\n{decision.monitor_note}\n\n{decision.analysis_summary}\n\n{listed}",
            description=f"Analysis of {exp_id} by skill {MONITOR_SKILL}",
        )
    return [str(p) for p in paths]


def judge_run(setting: Setting, exp_id: str, *, charts: bool) -> tuple[Decision | None, list[Path]]:
    """Run the monitoring skill on one experiment and record what it says.

    Args:
        setting: the campaign.
        exp_id: the experiment.
        charts: also carry out the decision's drawing tasks.

    Returns:
        The decision (None if there is nothing to judge), and the files written.
    """
    view = next(v for v in setting.views() if v.exp_id == exp_id)
    if view.run_dir is None:
        return None, []
    skills = load_skills(setting.home.skill_folders)
    skill = skills.skills.get(MONITOR_SKILL)
    with Reader(setting.ledger.url) as reader:
        rows = curves(reader, setting.row.id).get(exp_id, [])
    if skill is None:
        _note(
            setting,
            view,
            {"attempt": view.attempt, "note": "; ".join(skills.errors) or f"skill {MONITOR_SKILL} is missing"},
        )
        return None, []
    facts = facts_of(setting, view, rows)
    decision = run_rules(skill, facts)
    written, problems = [], list(skills.errors)
    if charts and decision.jit_tasks:
        drawn = write_jit_tasks(decision, Path(view.run_dir) / "analysis", facts)
        written, problems = list(drawn.paths), [*problems, *drawn.problems]
    _record(setting, view, skill, decision, written, problems)
    return decision, written


def facts_of(setting: Setting, view: ExperimentView, rows: list[MetricRow]) -> RunFacts:
    """What the rules may look at."""
    metrics: dict[str, list[tuple[float | None, float]]] = {}
    for row in rows:
        for name, value in row.values.items():
            metrics.setdefault(name, []).append((row.step, value))
    log = tail(Path(view.run_dir or "") / "stdout.log", max_bytes=64 * 1024, max_lines=LOG_LINES)
    return RunFacts(metrics, setting.campaign.objective.metric, log.splitlines(), view.state, view.exp_id)


def _record(
    setting: Setting, view: ExperimentView, skill: Skill, decision: Decision, written: list[Path], problems: list[str]
) -> None:
    now = time.time()
    summary = "\n".join([decision.message, decision.analysis_summary, *problems]).strip()
    monitoring = {
        "note": decision.monitor_note,
        "tags": decision.monitor_tags,
        "summary": summary,
        "artifacts": [str(p) for p in written] or view.monitoring.get("artifacts", []),
        "skills": [skill.name],
    }
    if view.state in ("done", "failed"):
        monitoring["attempt"] = view.attempt  # the last word on this attempt; see Finisher
    with setting.ledger.write() as connection:
        note_experiment(connection, setting.row.id, view.exp_id, monitoring=monitoring)
        add_artifacts(
            connection,
            setting.row.id,
            [("chart" if p.suffix == ".png" else "analysis", p.stem, str(p)) for p in written],
            now=now,
            exp_id=view.exp_id,
        )
        if decision.action == "alert":
            add_alert(
                connection,
                setting.row.id,
                view.exp_id,
                view.attempt,
                severity=decision.severity,
                syndrome=decision.syndrome,
                message=decision.message,
                choices=[c.model_dump() for c in decision.choices],
                effect=None,
                created_at=now,
            )


def _note(setting: Setting, view: ExperimentView, monitoring: dict[str, Any]) -> None:
    with setting.ledger.write() as connection:
        note_experiment(connection, setting.row.id, view.exp_id, monitoring=monitoring)
