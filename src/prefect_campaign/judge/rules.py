"""The forms of rules.yaml: monitor rules over a run, review rules over a plan; checked when they are read."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefect_campaign.judge.expressions import ExpressionError
from prefect_campaign.judge.facts import PATTERN_MAX, RUN, RunFacts
from prefect_campaign.judge.plan_facts import PLAN
from prefect_campaign.judge.schema import (
    CHOICES_MAX,
    SYNDROME_PATTERN,
    Action,
    Choice,
    JitTask,
    Severity,
    check_choices,
    default_choices,
)

__all__ = ["RULES_OF_KIND", "MonitorRule", "MonitorRules", "ReviewRule", "ReviewRules", "RunFacts"]

METRIC = "m"
"""Name of the metric that a rule with `metric` is evaluated for."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DecisionPart(_Form):
    """What a monitor rule decides. `message` and `evidence` are templates."""

    action: Action = "alert"
    severity: Severity = "warning"
    syndrome: str = Field(pattern=SYNDROME_PATTERN)
    message: str = Field(min_length=1)
    evidence: list[str] = Field(default_factory=list)
    choices: list[Choice] = Field(default_factory=default_choices, min_length=1, max_length=CHOICES_MAX)

    @model_validator(mode="after")
    def _answerable(self) -> "DecisionPart":
        check_choices(self.choices)
        if self.syndrome == "none":
            raise ValueError("syndrome: 'none' stands for no decision; name what was found")
        return self


class MonitorRule(_Form):
    """When `when` is true, the rule's decision, note, tags and task hold.

    With `metric` (globs, or ``$objective``) it is evaluated once for each metric that matches, named ``m``.
    Texts are templates: ``{expression}`` is replaced by its value.
    """

    name: str = Field(min_length=1, max_length=64)
    metric: list[str] = Field(default_factory=list)
    when: str
    decision: DecisionPart | None = None
    note: str = ""
    tags: list[str] = Field(default_factory=list)
    task: JitTask | None = None

    @field_validator("metric", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _readable(self) -> "MonitorRule":
        extra = {METRIC} if self.metric else set()
        _check(self.name, "when", RUN.check, self.when, extra)
        for where, text in self._templates():
            _check(self.name, where, RUN.check_template, text, extra)
        if any(len(pattern) > PATTERN_MAX for pattern in self.metric):
            raise ValueError(f"rule {self.name!r}: metric: a pattern has at most {PATTERN_MAX} characters")
        return self

    def _templates(self) -> list[tuple[str, str]]:
        found = [("note", self.note), *(("tags", tag) for tag in self.tags)]
        if self.decision:
            found += [("message", self.decision.message), *(("evidence", e) for e in self.decision.evidence)]
        if self.task:
            found.append(("task title", self.task.title))
            if isinstance(self.task.content, str):
                found.append(("task content", self.task.content))
        return found


class MonitorRules(_Form):
    """rules.yaml of a skill of kind ``monitor``."""

    rules: list[MonitorRule] = Field(min_length=1, max_length=200)


class ReviewRule(_Form):
    """When `when` is true of the plan, `gap` is named; the role's verdict is the worst of its rules."""

    name: str = Field(min_length=1, max_length=64)
    when: str
    verdict: Literal["PASS", "REVISE", "REJECT"] = "REVISE"
    gap: str = Field(min_length=1)

    @model_validator(mode="after")
    def _readable(self) -> "ReviewRule":
        _check(self.name, "when", PLAN.check, self.when, ())
        _check(self.name, "gap", PLAN.check_template, self.gap, ())
        return self


class ReviewRules(_Form):
    """rules.yaml of a skill of kind ``review``: each role's rules."""

    roles: dict[str, list[ReviewRule]] = Field(min_length=1, max_length=20)


RULES_OF_KIND: dict[str, type[MonitorRules] | type[ReviewRules]] = {
    "monitor": MonitorRules,
    "review": ReviewRules,
}


def _check(rule: str, where: str, check: Callable[..., None], text: str, extra: Any) -> None:
    try:
        check(text, extra)
    except ExpressionError as error:
        raise ValueError(f"rule {rule!r}: {where}: {error}") from None
