import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.decide.decide_data import campaign, failed, run

from prefect_campaign.decide.estimate import estimate_full_hours
from prefect_campaign.decide.pilot import decide_pilot
from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.spec import Budget, Policy, Stage
from prefect_campaign.results.synthesis import COLUMNS, gate_markdown, synthesis_markdown, write_synthesis

SECTIONS = [
    "Overview",
    "Results",
    "Failure analysis",
    "Recommendation",
    "Options",
    "Cost",
    "Design review",
]


def synthesis(results, spec=None, review=None, *, gate=False, **facts):
    spec = spec or campaign()
    plan, stage, views = run(spec, results)
    verdicts = [judge_stage(spec, plan, stage, views)]
    arguments = [spec, plan, verdicts, decide_pilot(verdicts), estimate_full_hours(spec, plan, views)]
    facts = {"commit": "abc1234", "dirty": False, "iteration": 1, "round_": 1, **facts}
    if gate:
        return gate_markdown(*arguments, **facts)
    return synthesis_markdown(*arguments, review, **facts)


def headings(text):
    return re.findall(r"(?m)^## (.*)$", text)


def section(text, name):
    return re.search(rf"(?ms)^## {name}\n(.*?)(?=^## |\Z)", text).group(1)


def table(text):
    """Cells of the results table, as a Markdown reader splits them."""
    lines = [line for line in section(text, "Results").splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_sections_and_columns_are_fixed():
    text = synthesis({"ours": 0.9, "tent": 0.8})
    assert headings(text) == SECTIONS
    assert tuple(table(text)[0]) == COLUMNS
    assert COLUMNS == ("exp_id", "dimension", "dataset", "method", "primary metric", "baseline", "delta", "pass")


def test_overview_and_rows():
    text = synthesis({"ours": [0.9, 0.912345, failed()], "tent": 0.8})
    overview = section(text, "Overview")
    assert "6 total, 5 with a result, 1 without" in overview
    assert "Candidates: 3 total, 2 passed, 1 failed" in overview
    assert "Checks: 1 total, 1 passed, 0 failed" in overview
    assert "`p1_ours_c10_main_epochs2_s1` on c10, final/accuracy = 0.9123, baseline 0.8, delta +0.1123" in overview
    rows = {r[0]: r[1:] for r in table(text)[2:]}
    assert rows["`p1_ours_c10_main_epochs2_s1`"] == ["core mechanism", "c10", "ours", "0.9123", "0.8", "+0.1123", "yes"]
    assert rows["`p1_ours_c10_main_epochs2_s2`"][3:] == ["–", "0.8", "–", "no"]
    assert rows["`p1_tent_c10_baseline_epochs2_s0`"] == ["baseline", "c10", "tent", "0.8", "–", "–", "–"]


@pytest.mark.parametrize(("ours", "word", "answer"), [(0.9, "PROCEED", "CONTINUE"), (0.5, "ROLLBACK", "KILL")])
def test_recommendation_cites_the_table(ours, word, answer):
    text = synthesis({"ours": ours, "tent": 0.8})
    recommendation = section(text, "Recommendation")
    assert f"**{word}**" in recommendation
    assert "p1_ours_c10_main_epochs2_s0" in recommendation
    assert f"Recommended: **{answer}**" in section(text, "Options")


def test_every_option_has_something_for_and_against():
    options = section(synthesis({"ours": 0.9, "tent": 0.8}), "Options")
    for answer in ("CONTINUE", "PIVOT", "KILL"):
        assert re.search(rf"\*\*{answer}\*\*.*\n    - For: \S.*\n    - Against: \S", options)


def test_failures_are_grouped_by_cause():
    text = synthesis({"ours": [0.9, failed(), failed(reason="at step 7")], "tent": 0.8})
    failures = section(text, "Failure analysis")
    assert "**failed, cuda_oom**: 2 ×" in failures
    assert "`p1_ours_c10_main_epochs2_s1`" in failures
    assert "at step 7" in failures
    assert "Nothing failed." in section(synthesis({"ours": 0.9, "tent": 0.8}), "Failure analysis")


def test_on_hold_is_shown_and_nothing_is_recommended():
    text = synthesis({"ours": [0.9, 0.9, {"state": "on_hold"}], "tent": 0.8})
    assert "On hold, to be decided first: `p1_ours_c10_main_epochs2_s2`" in text
    assert "**None yet**" in section(text, "Recommendation")
    assert "no answer yet" in section(text, "Options")


def test_a_missing_metric_is_explained():
    spec = campaign(objective={"metric": "final/acuracy"})
    lost = failed("no_result", metrics={"final/accuracy": 0.9})
    assert "did you mean 'final/accuracy'?" in section(
        synthesis({"ours": lost, "tent": lost}, spec), "Failure analysis"
    )


def test_cost_with_money():
    spec = campaign(policy=Policy(max_parallel=2, budget=Budget(hours=100, price_per_hour=2.5, currency="EUR")))
    cost = section(synthesis({"ours": 0.9, "tent": 0.8}, spec), "Cost")
    assert "Used so far: 1 slot h" in cost
    assert "Asked: 6 slot h (1 slot h per experiment on average) for 6 experiments on 1 dataset" in cost
    assert "about 3 h with 2 at a time" in cost
    assert "2.50 used, 15.00 asked, in EUR" in cost
    assert "Budget: 100 slot h" in cost
    assert "Basis: 6 finished pilot runs" in cost


def test_unknown_cost():
    cost = section(synthesis({"ours": failed(), "tent": failed()}), "Cost")
    assert "Asked: unknown" in cost
    assert "expected_minutes" in cost


def test_design_review_is_put_in_below_its_heading():
    text = synthesis({"ours": 0.9, "tent": 0.8}, review="# Review\n\n## Skeptic\n\nPASS\n\n#### deep\n")
    assert headings(text) == SECTIONS
    assert "### Skeptic" in section(text, "Design review")
    assert "\n#### deep" in text
    assert "No design review was made." in synthesis({"ours": 0.9, "tent": 0.8})


def test_the_head_binds_it_to_code_and_plan():
    text = synthesis({"ours": 0.9, "tent": 0.8}, dirty=True, iteration=2, round_=3)
    assert "Round 3, iteration 2" in text
    assert "commit `abc1234` **with local changes**" in text
    assert "no commit" in synthesis({"ours": 0.9, "tent": 0.8}, commit=None)


HOSTILE = "| a |\n# heading\n<script>alert(1)</script> ![x](http://evil/x.png) `code` \\| \x00 ü \udcff"


def test_hostile_text_stays_text():
    spec = campaign(datasets=("a|b\n## c", "d"))
    spec.question = HOSTILE
    text = synthesis({("ours", "d"): failed(reason=HOSTILE), "ours": 0.9, "tent": 0.8}, spec)
    assert headings(text) == SECTIONS
    assert all(len(row) == len(COLUMNS) for row in table(text))
    assert "<script" not in text
    assert "![x]" not in text
    assert "ü" in text
    text.encode("utf-8")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_any_reason_keeps_the_sections_and_the_table(reason):
    text = synthesis({"ours": [0.9, math.nan, failed(reason=reason)], "tent": 0.8})
    assert headings(text) == SECTIONS
    assert [len(row) for row in table(text)] == [8] * 8


@pytest.mark.parametrize("mode", ["max", "min"])
def test_long_tables_are_summarised_per_configuration(mode):
    methods = tuple(f"m{i}" for i in range(10))
    spec = campaign(methods=(*methods, "tent"), seeds=6, objective={"mode": mode})
    results = {m: [0.5 + 0.01 * i] * 5 + [failed()] for i, m in enumerate(methods)}
    text = synthesis({**results, "tent": 0.5}, spec)
    assert "66 rows are summarised per configuration" in text
    rows = table(text)[2:]
    assert len(rows) == 11
    assert rows[2][0] == "`p1_m2_c10_main_epochs2_s0` +5"
    assert rows[2][4:] == ["0.52 ± 0", "0.5", "+0.02", "5/6"] if mode == "max" else rows[2][6] == "-0.02"


def test_the_gate_shows_at_most_twenty_rows_and_the_best_first():
    methods = tuple(f"m{i}" for i in range(30))
    spec = campaign(methods=(*methods, "tent"), seeds=2)
    results = {m: 0.5 + 0.01 * i for i, m in enumerate(methods)}
    text = synthesis({**results, "tent": 0.5}, spec, gate=True)
    assert headings(text) == ["Overview", "Results", "Recommendation", "Options", "Cost"]
    rows = table(text)[2:]
    assert len(rows) == 20
    assert "best 20 of 31" in text
    assert "m29" in rows[0][0]
    short = synthesis({"ours": 0.9, "tent": 0.8}, gate=True)
    assert len(table(short)) == 8


def test_two_stages_in_one_table():
    spec = campaign(pilot=[Stage("minimal", args={"epochs": 2}), Stage("two", args={"epochs": 5})])
    plan = None
    verdicts, everything = [], []
    for name in ("minimal", "two"):
        plan, stage, views = run(spec, {"ours": 0.9, "tent": 0.8}, name)
        verdicts.append(judge_stage(spec, plan, stage, views))
        everything += views
    cost = estimate_full_hours(spec, plan, everything)
    text = synthesis_markdown(
        spec, plan, verdicts, decide_pilot(verdicts), cost, None, commit=None, dirty=False, iteration=1, round_=1
    )
    assert len(table(text)) == 14
    assert "stages: minimal (passed), two (passed)" in text


def test_writing_is_whole_and_replaces(tmp_path):
    folder = tmp_path / "new" / "folder"
    path = write_synthesis("first\n", folder)
    assert path == folder / "pilot_synthesis.md"
    assert write_synthesis("second ü \udcff\n", str(folder)) == path
    assert path.read_bytes() == "second ü ?\n".encode()
    assert list(folder.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_synthesis("old", tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_synthesis("new", tmp_path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
