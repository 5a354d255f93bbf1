"""The decision: the one fixed form in which rules and models say what they think of a run."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Action = Literal["alert", "ignore"]
Severity = Literal["info", "warning", "critical"]
Effect = Literal["continue", "stop", "retry", "hold"]

MESSAGE_MAX = 600
SUMMARY_MAX = 1200
NOTE_MAX = 220
TAGS_MAX = 8
TASKS_MAX = 8
CHOICES_MAX = 8
EVIDENCE_MAX = 20
EVIDENCE_LINE_MAX = 400
SYNDROME_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
RAW_MAX = 1_000_000
"""Characters of an answer that are looked at, at most."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Strict):
    """One way to answer an alert. Only the effect acts; the label is for people."""

    label: str = Field(min_length=1, max_length=80)
    effect: Effect


class JitTask(_Strict):
    """A chart or a note that is made for this run now."""

    kind: Literal["vega_lite_spec", "markdown_note"]
    title: str = Field(min_length=1, max_length=200)
    file_name: str = Field(min_length=1, max_length=200)
    goal: str = Field(default="", max_length=400)
    content: dict[str, Any] | str

    @model_validator(mode="after")
    def _content_of_its_kind(self) -> "JitTask":
        wanted = str if self.kind == "markdown_note" else dict
        if not isinstance(self.content, wanted):
            form = "text" if wanted is str else "a mapping (the Vega-Lite specification)"
            raise ValueError(f"content of a {self.kind} must be {form}")
        return self


def default_choices() -> list[Choice]:
    """Ignore (continue) and Stop (stop)."""
    return [Choice(label="Ignore", effect="continue"), Choice(label="Stop", effect="stop")]


def check_choices(choices: list[Choice]) -> None:
    """Raise ValueError if two choices could be mistaken for each other."""
    if len({choice.label for choice in choices}) < len(choices):
        raise ValueError("two choices have the same label")


class Decision(_Strict):
    """What is thought of a run now. The fields are fixed; unknown ones are refused."""

    action: Action
    severity: Severity = "info"
    message: str = Field(default="", max_length=MESSAGE_MAX)
    syndrome: str = Field(default="none", pattern=SYNDROME_PATTERN)
    evidence: list[str] = Field(default_factory=list, max_length=EVIDENCE_MAX)
    choices: list[Choice] = Field(default_factory=default_choices, min_length=1, max_length=CHOICES_MAX)
    analysis_summary: str = Field(default="", max_length=SUMMARY_MAX)
    monitor_note: str = Field(default="", max_length=NOTE_MAX)
    monitor_tags: list[str] = Field(default_factory=list, max_length=TAGS_MAX)
    jit_tasks: list[JitTask] = Field(default_factory=list, max_length=TASKS_MAX)

    @field_validator("evidence", mode="before")
    @classmethod
    def _one_line_of_evidence(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _an_alert_says_what(self) -> "Decision":
        if self.action == "alert" and (not self.message.strip() or self.syndrome == "none"):
            raise ValueError("an alert needs a message and a syndrome")
        check_choices(self.choices)
        return self


@dataclass(frozen=True)
class Unparsed:
    """An answer that is not a decision. It is kept as what it is, and decides nothing."""

    reason: str
    raw: str
    """The answer, its first 8000 characters."""


def parse_decision(raw: str | dict[str, Any]) -> Decision | Unparsed:
    """Read a decision from JSON text or plain data; whatever is not exactly one is `Unparsed`."""
    try:
        if isinstance(raw, str) and len(raw) > RAW_MAX:
            raise ValueError(f"is longer than {RAW_MAX} characters")
        data = json.loads(raw, object_pairs_hook=_unique) if isinstance(raw, str) else raw
        if not isinstance(data, dict):
            raise ValueError(f"is not an object but {type(data).__name__}")
        return Decision.model_validate(data)
    except ValidationError as error:
        reason = "; ".join(_line(problem) for problem in error.errors()[:5])
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg} at character {error.pos}"
    except RecursionError:
        reason = "is nested too deeply"
    except ValueError as error:
        reason = str(error)
    return Unparsed(reason=reason, raw=_text(raw)[:8000])


def _text(raw: object) -> str:
    try:
        return raw if isinstance(raw, str) else repr(raw)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice: two readers could see two different decisions."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _line(problem: Any) -> str:
    return f"{'.'.join(map(str, problem['loc'])) or 'decision'}: {problem['msg'].removeprefix('Value error, ')}"
