"""Judging a run by the monitoring skill: notes, tags, alerts and charts, on record."""

from pathlib import Path
from typing import Any

from prefect_campaign.engine.setting import Setting
from prefect_campaign.judge.artifacts import write_jit_tasks
from prefect_campaign.judge.facts import LOG_LINES, RunFacts
from prefect_campaign.judge.monitor import analyse
from prefect_campaign.judge.schema import Decision
from prefect_campaign.judge.skills import load_skills
from prefect_campaign.ledger.alerts import add_alert
from prefect_campaign.ledger.observations import add_artifacts, note_experiment
from prefect_campaign.ledger.queries import curves
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.watch.metrics import tail

MONITOR_SKILL = "training-monitor"


def judge_run(setting: Setting, view: ExperimentView, *, charts: bool) -> Decision | None:
    """Run the monitoring skill on one experiment and record what it says.

    Args:
        setting: the campaign.
        view: the experiment.
        charts: also carry out the decision's drawing tasks. Rendering holds the interpreter for up to seconds:
            never do it in the process that watches.

    Returns:
        The decision; None if there is nothing to judge or no skill to judge by.
    """
    skills = load_skills(setting.home.skill_folders)
    skill = skills.skills.get(MONITOR_SKILL)
    if view.run_dir is None:
        return None
    if skill is None:
        note = "; ".join(skills.errors) or f"skill {MONITOR_SKILL} is missing"
        _record(setting, view, {"note": note, "attempt": view.attempt}, None, [])
        return None
    with Reader(setting.ledger.url) as reader:
        rows = curves(reader, setting.row.id).get(view.exp_id, [])
    facts = _facts(setting, view, rows)
    decision = analyse(skill, facts)
    written: list[Path] = []
    problems = list(skills.errors)
    if charts and decision.jit_tasks:
        drawn = write_jit_tasks(decision, Path(view.run_dir) / "analysis", facts)
        written, problems = list(drawn.paths), [*problems, *drawn.problems]
    monitoring: dict[str, Any] = {
        "note": decision.monitor_note,
        "tags": decision.monitor_tags,
        "summary": "\n".join(filter(None, [decision.message, decision.analysis_summary, *problems])),
        "artifacts": [str(p) for p in written] or view.monitoring.get("artifacts", []),
        "skills": [skill.name],
    }
    if charts:
        monitoring["attempt"] = view.attempt  # the last word on this attempt
    _record(setting, view, monitoring, decision, written)
    return decision


def _facts(setting: Setting, view: ExperimentView, rows: list[MetricRow]) -> RunFacts:
    metrics: dict[str, list[tuple[float | None, float]]] = {}
    for row in rows:
        for name, value in row.values.items():
            metrics.setdefault(name, []).append((row.step, value))
    log = tail(Path(view.run_dir or "") / "stdout.log", max_bytes=64 * 1024, max_lines=LOG_LINES)
    return RunFacts(metrics, setting.campaign.objective.metric, log.splitlines(), view.state, view.exp_id)


def _record(
    setting: Setting, view: ExperimentView, monitoring: dict[str, Any], decision: Decision | None, written: list[Path]
) -> None:
    now = setting.ledger.clock()
    listed = [("chart" if p.suffix in (".png", ".svg") else "analysis", p.stem, str(p)) for p in written]
    with setting.ledger.write() as connection:
        note_experiment(connection, setting.row.id, view.exp_id, monitoring=monitoring)
        add_artifacts(connection, setting.row.id, listed, now=now, exp_id=view.exp_id)
        if decision is not None and decision.action == "alert":
            add_alert(
                connection,
                setting.row.id,
                view.exp_id,
                view.attempt,
                severity=decision.severity,
                syndrome=decision.syndrome,
                message=decision.message,
                choices=[c.model_dump() for c in decision.choices],
                effect="continue",  # a judgement is for people to read; nothing waits for an answer to it
                created_at=now,
            )
