"""Analysis of one run by a monitor skill's rules: pure and cheap, with no model call."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect_campaign.judge.expressions import ExpressionError, Value, cut
from prefect_campaign.judge.facts import RUN, RunFacts, metric_names
from prefect_campaign.judge.rules import METRIC, MonitorRule, MonitorRules
from prefect_campaign.judge.schema import (
    EVIDENCE_LINE_MAX,
    EVIDENCE_MAX,
    MESSAGE_MAX,
    NOTE_MAX,
    SUMMARY_MAX,
    TAGS_MAX,
    TASKS_MAX,
    Decision,
    JitTask,
)
from prefect_campaign.judge.skills import Skill

_RANK = {"info": 0, "warning": 1, "critical": 2}
_TAG_MAX = 40


@dataclass(frozen=True)
class _Finding:
    """One decision that one rule came to, for one metric."""

    rule: MonitorRule
    message: str
    evidence: list[str]

    @property
    def rank(self) -> tuple[bool, int]:
        decision = self.rule.decision
        assert decision is not None  # noqa: S101 - only rules with a decision make findings
        return decision.action == "alert", _RANK[decision.severity]


@dataclass
class _Analysis:
    findings: list[_Finding]
    notes: list[str]
    tags: list[str]
    tasks: list[JitTask]
    problems: list[str]

    @property
    def alerts(self) -> int:
        return sum(f.rank[0] for f in self.findings)


def analyse(skill: Skill, facts: RunFacts) -> Decision:
    """Run all rules of a monitor skill over the facts of one run.

    The most severe alert (the first of them, in the order of the rules) gives the decision its message,
    syndrome, evidence and choices; the others are told in `analysis_summary`. A rule that cannot be
    evaluated is named there too, and the other rules still count. The result depends on nothing but the
    arguments.

    Raises:
        ValueError: `skill` is not of kind ``monitor``.
    """
    if not isinstance(skill.rules, MonitorRules):
        raise ValueError(f"{skill.source}: is not a monitor skill with rules.yaml")
    analysis = _Analysis([], [], [], [], [])
    for rule in skill.rules.rules:
        try:
            _apply(rule, facts, analysis)
        except ExpressionError as error:
            analysis.problems.append(f"{skill.source / 'rules.yaml'}: rule {rule.name!r}: {error}")
            analysis.tags.append("rule-error")
    return _decision(analysis)


def _apply(rule: MonitorRule, facts: RunFacts, analysis: _Analysis) -> None:
    for names in _cases(rule, facts, analysis.alerts):
        if not RUN.evaluate(rule.when, facts, names):
            continue
        if rule.decision:
            message = RUN.fill(rule.decision.message, facts, names).strip() or rule.name
            evidence = [RUN.fill(line, facts, names) for line in rule.decision.evidence]
            analysis.findings.append(_Finding(rule, message, evidence))
        if rule.note:
            analysis.notes.append(RUN.fill(rule.note, facts, names))
        analysis.tags += [RUN.fill(tag, facts, names) for tag in rule.tags]
        if rule.task:
            analysis.tasks.append(_task(rule.task, facts, names))


def _cases(rule: MonitorRule, facts: RunFacts, alerts: int) -> Iterator[dict[str, Value]]:
    """The names a rule is evaluated with: once, or once for each metric that it is about."""
    names: dict[str, Value] = {
        "exp_id": facts.exp_id,
        "objective": facts.objective,
        "state": facts.state,
        "alerts": alerts,
    }
    if not rule.metric:
        yield names
        return
    for metric in metric_names(facts, rule.metric):
        yield {**names, METRIC: metric}


def _task(task: JitTask, facts: RunFacts, names: dict[str, Value]) -> JitTask:
    filled: dict[str, Any] = {"title": cut(RUN.fill(task.title, facts, names), 200)}
    if isinstance(task.content, str):
        filled["content"] = RUN.fill(task.content, facts, names)
    return task.model_copy(update=filled)


def _decision(analysis: _Analysis) -> Decision:
    common: dict[str, Any] = {
        "monitor_note": cut(" ".join(dict.fromkeys(analysis.notes)), NOTE_MAX),
        "monitor_tags": [cut(tag, _TAG_MAX) for tag in dict.fromkeys(analysis.tags) if tag][:TAGS_MAX],
        "jit_tasks": analysis.tasks[:TASKS_MAX],
    }
    ranked = sorted(analysis.findings, key=lambda f: f.rank, reverse=True)  # stable: first rule first
    if not ranked:
        return Decision(action="ignore", analysis_summary=_summary(analysis, []), **common)
    main = ranked[0]
    decision = main.rule.decision
    assert decision is not None  # noqa: S101 - only rules with a decision make findings
    same = [f for f in ranked if f.rule.decision and f.rule.decision.syndrome == decision.syndrome]
    evidence = dict.fromkeys(line for finding in same for line in finding.evidence)
    return Decision(
        action=decision.action,
        severity=decision.severity,
        message=cut(main.message, MESSAGE_MAX),
        syndrome=decision.syndrome,
        evidence=[cut(line, EVIDENCE_LINE_MAX) for line in evidence][:EVIDENCE_MAX],
        choices=decision.choices,
        analysis_summary=_summary(analysis, ranked[1:]),
        **common,
    )


def _summary(analysis: _Analysis, others: list[_Finding]) -> str:
    # Problems first: they must not be what the limit cuts off.
    lines = [f"Problem: {cut(problem, 400)}" for problem in analysis.problems]
    lines += [f"Also {f.rule.decision.severity}: {f.message}" for f in others if f.rule.decision]
    return cut("\n".join(dict.fromkeys(lines)), SUMMARY_MAX)
