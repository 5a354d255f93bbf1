import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.judge.schema import Decision, Unparsed, parse_decision

ALERT = {"action": "alert", "severity": "critical", "message": "loss is nan", "syndrome": "nan_inf_loss"}


def test_the_fields_are_the_fixed_ones():
    assert set(Decision.model_fields) == {
        "action",
        "severity",
        "message",
        "syndrome",
        "evidence",
        "choices",
        "analysis_summary",
        "monitor_note",
        "monitor_tags",
        "jit_tasks",
    }


def test_text_and_data_give_the_same_decision():
    decision = parse_decision(json.dumps(ALERT))
    assert decision == parse_decision(ALERT)
    assert isinstance(decision, Decision)
    assert [(c.label, c.effect) for c in decision.choices] == [("Ignore", "continue"), ("Stop", "stop")]


def test_one_line_of_evidence_may_be_plain_text():
    decision = parse_decision({**ALERT, "evidence": "step 3: nan"})
    assert isinstance(decision, Decision)
    assert decision.evidence == ["step 3: nan"]


CHART = {"kind": "vega_lite_spec", "title": "t", "file_name": "f", "content": {"mark": "line"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"message": "x" * 601}, "message"),
        ({"analysis_summary": "x" * 1201}, "analysis_summary"),
        ({"monitor_note": "x" * 221}, "monitor_note"),
        ({"monitor_tags": ["x"] * 9}, "monitor_tags"),
        ({"jit_tasks": [CHART] * 9}, "jit_tasks"),
        ({"jit_tasks": [{**CHART, "kind": "python"}]}, "kind"),
        ({"jit_tasks": [{**CHART, "content": "text"}]}, "mapping"),
        ({"jit_tasks": [{**CHART, "kind": "markdown_note"}]}, "text"),
        ({"action": "kill"}, "action"),
        ({"severity": "fatal"}, "severity"),
        ({"syndrome": "Nan Loss"}, "syndrome"),
        ({"syndrome": "none"}, "needs a message and a syndrome"),
        ({"message": "  "}, "needs a message and a syndrome"),
        ({"choices": []}, "choices"),
        ({"choices": [{"label": "Go", "effect": "rm -rf"}]}, "effect"),
        ({"choices": [{"label": "Go", "effect": "stop"}, {"label": "Go", "effect": "retry"}]}, "same label"),
        ({"run_this": "rm"}, "run_this"),
        ({"evidence": 3}, "evidence"),
    ],
)
def test_a_decision_outside_the_form_is_recorded_as_such(change, reason):
    found = parse_decision({**ALERT, **change})
    assert isinstance(found, Unparsed)
    assert reason in found.reason


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "ignore",
        "null",
        "[]",
        '"ignore"',
        '{"action": "ignore"',
        "```json\n{}\n```",
        '{"action": "alert", "action": "ignore"}',
        "[" * 100_000,
        '{"a":' * 50_000,
        "9" * 5000,
        " " * 1_000_001,
        "\ud800",
    ],
)
def test_garbage_is_never_turned_into_ignore(raw):
    found = parse_decision(raw)
    assert isinstance(found, Unparsed)
    assert found.reason
    assert found.raw == raw[:8000]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_a_decision_or_unparsed(data):
    for raw in (json.dumps(data), {"action": data}, {**ALERT, "evidence": data}):
        assert isinstance(parse_decision(raw), Decision | Unparsed)
