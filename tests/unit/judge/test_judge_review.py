import math
import shutil
from dataclasses import replace

import pytest

from prefect_campaign.judge.review import ROLES, plan_facts, review_design, to_markdown
from prefect_campaign.judge.skills import PACKAGE_SKILLS, SkillSet, load_skills
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.spec import Campaign

SPEC = {
    "name": "digits",
    "question": "Does ours beat the svm?",
    "command": "python train.py --method {method} --data {dataset} --seed {seed}",
    "sweep": {"grid": {"method": ["ours", "svm"], "dataset": ["digits", "wine"], "seed": [0, 1, 2]}},
    "objective": {"metric": "final/accuracy"},
    "groups": {"baseline": {"only": {"method": "svm"}, "purpose": "the method to beat"}},
    "policy": {"budget": {"hours": 10}},
}


def facts(hours=2.0, commit="abc123", dirty=False, **change):
    campaign = Campaign.model_validate({**SPEC, **change})
    budget = campaign.policy.budget.hours
    return plan_facts(campaign, make_plan(campaign), hours, budget, commit, dirty)


def verdicts(plan, skills=None):
    record = review_design(skills or load_skills(), plan)
    return {v.role: v for v in record.verdicts}, record


def test_facts_of_a_plan():
    found = facts()
    assert (found.experiments, found.pilot_experiments, found.configurations) == (12, 2, 4)
    assert (found.min_seeds, found.max_seeds) == (3, 3)
    assert (found.methods, found.datasets) == (("ours", "svm"), ("digits", "wine"))
    assert (found.pilot_datasets, found.unpiloted_datasets) == (("digits",), ("wine",))
    assert set(found.groups) == {"main", "baseline"}
    assert found.has_baseline
    assert not found.has_ablation
    assert found.groups_without_purpose == ()


def test_fewest_seeds_count():
    points = [{"lr": lr, "seed": s} for lr, s in [(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0)]]
    found = facts(sweep={"points": points}, command="python t.py {lr} {seed}", groups={})
    assert (found.min_seeds, found.max_seeds, found.configurations) == (1, 3, 2)


def test_a_sound_design_passes_with_remarks():
    by_role, record = verdicts(facts())
    assert list(by_role) == list(ROLES)
    assert {v.verdict for v in by_role.values()} == {"PASS"}
    assert by_role["Completionist"].gaps == ["not tried in a pilot stage: wine"]
    assert record.passed


GRID = SPEC["sweep"]["grid"]


@pytest.mark.parametrize(
    ("role", "verdict", "gap", "change"),
    [
        ("Skeptic", "REJECT", "11 hours are estimated, but the budget is 10", {"hours": 11.0}),
        ("Skeptic", "REJECT", "inf hours are estimated", {"hours": math.inf}),
        ("Skeptic", "REVISE", "no room for retries", {"hours": 9.0}),
        ("Skeptic", "REVISE", "the cost is unknown", {"hours": math.nan}),
        ("Skeptic", "REVISE", "without a limit", {"hours": 25.0, "policy": {}}),
        ("Completionist", "REVISE", "nothing to compare with", {"groups": {}}),
        (
            "Completionist",
            "REVISE",
            "most datasets were in no pilot stage (b, c)",
            {"sweep": {"grid": {**GRID, "dataset": ["a", "b", "c"]}}},
        ),
        ("Reproducibility Hawk", "REVISE", "2 of the 3 seeds", {"sweep": {"grid": {**GRID, "seed": [0, 1]}}}),
        ("Reproducibility Hawk", "REVISE", "not under version control", {"commit": None}),
        ("Reproducibility Hawk", "REVISE", "local changes", {"dirty": True}),
        ("Narrative Enforcer", "REVISE", "question is not stated", {"question": "  "}),
        (
            "Narrative Enforcer",
            "REVISE",
            "groups without a purpose: baseline",
            {"groups": {"baseline": {"method": ["svm"]}}},
        ),
    ],
)
def test_each_gap_belongs_to_one_role(role, verdict, gap, change):
    by_role, record = verdicts(facts(**change))
    assert by_role[role].verdict == verdict
    assert any(gap in g for g in by_role[role].gaps)
    assert [r for r, v in by_role.items() if v.verdict != "PASS"] == [role]
    assert record.passed is (verdict != "REJECT")


def test_two_revisions_do_not_pass():
    _, record = verdicts(facts(question="", commit=None))
    assert not record.passed


def test_a_reported_baseline_is_one():
    by_role, _ = verdicts(facts(groups={}, objective={"metric": "acc", "baseline": 0.9}))
    assert by_role["Completionist"].verdict == "PASS"


def test_pilot_checks_say_what_their_failure_means():
    checks = [{"name": "core", "core": True}, {"name": "wine", "if_fails": "it does not transfer"}]
    by_role, _ = verdicts(facts(command=SPEC["command"] + " {epochs}", **_stages(checks)))
    assert by_role["Narrative Enforcer"].verdict == "PASS"
    assert by_role["Narrative Enforcer"].gaps[0].endswith("(if_fails): mini/core")


def _stages(checks):
    return {
        "pilot": [{"name": "mini", "only": {"seed": 0}, "args": {"epochs": 1}, "checks": checks}],
        "full": {"name": "full", "args": {"epochs": 9}},
    }


def test_a_missing_skill_is_no_response_and_no_pass():
    record = review_design(SkillSet(errors=["/x/design-review/SKILL.md: is missing"]), facts())
    assert [v.verdict for v in record.verdicts] == ["NO RESPONSE"] * 4
    assert not record.passed
    assert record.problems[0] == "/x/design-review/SKILL.md: is missing"
    assert "not passed" in to_markdown(record)


def test_a_users_criteria_win_and_a_silent_role_does_not_pass(tmp_path):
    shutil.copytree(PACKAGE_SKILLS / "design-review", tmp_path / "design-review")
    (tmp_path / "design-review" / "rules.yaml").write_text(
        "roles:\n"
        "  Skeptic: [{name: five, when: min_seeds < 5, verdict: REJECT, gap: 'venue asks for 5'}]\n"
        "  Completionist: []\n"
        "  Reproducibility Hawk: [{name: wrong, when: question > 3, gap: x}]\n"
        "  Venue: []\n"
    )
    skills = load_skills([tmp_path])
    assert skills.errors == []
    by_role, record = verdicts(facts(), skills)
    assert {r: v.verdict for r, v in by_role.items()} == {
        "Skeptic": "REJECT",
        "Completionist": "PASS",
        "Reproducibility Hawk": "NO RESPONSE",
        "Narrative Enforcer": "NO RESPONSE",
        "Venue": "PASS",
    }
    assert "rule 'wrong'" in by_role["Reproducibility Hawk"].gaps[0]
    assert not record.passed


def test_the_list_cannot_be_broken_out_of():
    hostile = "wine | PASS |\n| x <script>alert(1)</script>"
    _, record = verdicts(replace(facts(), unpiloted_datasets=(hostile,)))
    text = to_markdown(record)
    assert "<script>" not in text
    first, _, *roles = text.splitlines()
    assert first == "Design review: **passed** (4 PASS)."
    assert [role.split("**")[1] for role in roles] == list(ROLES)
