"""The design review: four roles look at the plan before the full phase, by the rules of skill design-review."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_campaign.judge.expressions import ExpressionError
from prefect_campaign.judge.plan_facts import PLAN, PlanFacts, plan_facts
from prefect_campaign.judge.rules import ReviewRule, ReviewRules
from prefect_campaign.judge.skills import SkillSet

__all__ = ["ROLES", "PlanFacts", "ReviewRecord", "Verdict", "plan_facts", "review_design", "to_markdown"]

SKILL = "design-review"
ROLES = ("Skeptic", "Completionist", "Reproducibility Hawk", "Narrative Enforcer")

Outcome = Literal["PASS", "REVISE", "REJECT", "NO RESPONSE"]

_WORST_FIRST: tuple[Outcome, ...] = ("REJECT", "REVISE", "PASS")


@dataclass(frozen=True)
class Verdict:
    """What one role says. `NO RESPONSE`: it could not be asked; its gaps say why."""

    role: str
    verdict: Outcome
    gaps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReviewRecord:
    """The verdicts of all roles on one plan."""

    verdicts: list[Verdict]
    problems: list[str] = field(default_factory=list)
    """Why the review is not what it should be, e.g. a skill that could not be read."""

    @property
    def passed(self) -> bool:
        """No REJECT, at most one REVISE, and every role has answered."""
        given = [v.verdict for v in self.verdicts]
        answered = bool(given) and "NO RESPONSE" not in given
        return answered and "REJECT" not in given and given.count("REVISE") <= 1


def review_design(skills: SkillSet, facts: PlanFacts) -> ReviewRecord:
    """Let every role judge the plan by its rules.

    A role's verdict is the worst of its rules that hold; without any it is PASS. A role without rules, or
    with one that cannot be evaluated, has given no response: silence is never taken for a PASS.
    """
    skill = skills.skills.get(SKILL)
    problems = [error for error in skills.errors if f"/{SKILL}/" in error]
    if skill is None or not isinstance(skill.rules, ReviewRules):
        problems.append(f"skill {SKILL!r} with rules for the roles was not found; the design was not reviewed")
        return ReviewRecord([Verdict(role, "NO RESPONSE", ["no rules"]) for role in ROLES], problems)
    roles = dict.fromkeys((*ROLES, *skill.rules.roles))
    return ReviewRecord([_verdict(role, skill.rules.roles.get(role), facts) for role in roles], problems)


def to_markdown(record: ReviewRecord) -> str:
    """The record as a Markdown list, with the outcome above it; a table would not fit into the gate's form."""
    roles = [f"- **{_plain([v.role])}**: {v.verdict}{': ' if v.gaps else ''}{_plain(v.gaps)}" for v in record.verdicts]
    counts = ", ".join(f"{n} {name}" for name in (*_WORST_FIRST, "NO RESPONSE") if (n := _count(record, name)))
    outcome = f"Design review: **{'passed' if record.passed else 'not passed'}** ({counts})."
    problems = [f"- {_plain([problem])}" for problem in record.problems]
    return "\n".join([outcome, "", *roles, *problems]) + "\n"


def _verdict(role: str, rules: Sequence[ReviewRule] | None, facts: PlanFacts) -> Verdict:
    if rules is None:
        return Verdict(role, "NO RESPONSE", [f"skill {SKILL!r} has no rules for this role"])
    names = facts.names()
    held: list[tuple[ReviewRule, str]] = []
    for rule in rules:
        try:
            if PLAN.evaluate(rule.when, facts, names):
                held.append((rule, PLAN.fill(rule.gap, facts, names)))
        except ExpressionError as error:
            return Verdict(role, "NO RESPONSE", [f"rule {rule.name!r}: {error}"])
    given = {rule.verdict for rule, _ in held}
    worst: Outcome = next((verdict for verdict in _WORST_FIRST if verdict in given), "PASS")
    return Verdict(role, worst, [gap for _, gap in held])


def _count(record: ReviewRecord, verdict: str) -> int:
    return sum(v.verdict == verdict for v in record.verdicts)


def _plain(texts: list[str]) -> str:
    """Texts in one line of a list: whatever names they quote, they cannot break out of it."""
    return "; ".join(html.escape(" ".join(t.split()), quote=False).replace("|", "&#124;") for t in texts)
