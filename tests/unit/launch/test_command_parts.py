"""Command templates and patterns: what is filled in, what is read, and how mistakes are told."""

import pytest
from acme_rig import description

from prefect_campaign.launch.command.settings import read_id, read_rows
from prefect_campaign.launch.command.template import Template
from prefect_campaign.model.errors import Refused


def test_values_are_single_arguments_and_lists_repeat_their_word() -> None:
    template = Template("submit", "run --mount={storage} --name '{name} x' {ids}", {"storage", "name", "ids"})
    values = {"storage": ["a b", "c;d"], "name": "$(id)", "ids": []}
    assert template.fill(values) == ["run", "--mount=a b", "--mount=c;d", "--name", "$(id) x"]


def test_literal_braces() -> None:
    assert Template("status", ["ps", "--format={{{{.ID}}}}"], ()).fill({}) == ["ps", "--format={{.ID}}"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "is empty"),
        ("run 'x", "no closing quotation"),
        (["run", "{nam}"], r"\{nam\} is no field; known are name, script"),
        (["run", "{name"], "expected '}'"),
        (["run", "{0}"], "is not a plain field name"),
        (["run", "{name!r}"], "is not a plain field name"),
        (["run", "{name}"], r"names none of \{script\}"),
        (["{script}"], "which is no program"),
        (["--run", "{script}"], "which is no program"),
    ],
)
def test_bad_templates(words, problem) -> None:
    with pytest.raises(Refused, match=f"submit: .*{problem}"):
        Template("submit", words, {"name", "script"}, ("script",))


def test_two_lists_in_one_word() -> None:
    template = Template("status", ["ps", "{ids}:{names}"], {"ids", "names"})
    with pytest.raises(Refused, match="several values"):
        template.fill({"ids": ["1"], "names": ["a"]})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"job_pattern": "(?P<id>x"}, "job_pattern: missing"),
        ({"job_pattern": "(?P<id>x)"}, "job_pattern: needs the named groups"),
        ({"job_pattern": "(?P<id>x)(?P<state>y)(?P<colour>z)"}, "job_pattern: group 'colour'"),
        ({"id_pattern": "task (.*)"}, "id_pattern: needs one named group"),
        ({"id_pattern": "", "submit": "acme run {script}"}, r"submit: gives no \{name\}"),
        ({"submit": "acme run {script} {name}"}, r"job_pattern: has a group 'mark', but submit gives no \{mark\}"),
        ({"whole_pattern": "*"}, "whole_pattern: nothing to repeat"),
        ({"states": {}}, "states: is empty"),
        ({"states": {"Active": "fine"}}, "states: 'Active' means 'fine'"),
        ({"cancel": ["acme", "stop"]}, "cancel: names none of"),
        ({"status": []}, "status: is empty"),
        ({"fields": {"run_dir": "x"}}, "fields: 'run_dir'"),
        ({"job_id_variable": "A B"}, "job_id_variable: 'A B'"),
        ({"logs": ["acme", "logs", "{ids}"]}, r"logs: \{ids\} is no field"),
    ],
)
def test_bad_descriptions_name_the_field(changes, problem) -> None:
    with pytest.raises(Refused, match=problem) as told:
        description(**changes)
    assert "\n" not in str(told.value)


def test_rows() -> None:
    out = (
        "TASK      PHASE     NODE   LABEL TITLE\n"
        "t-1 ACTIVE rack7 m1 pc-a\n"
        "t-2 Waiting - m2 pc-b\n"
        "t-3 Rebooting rack1 m3 pc-c\n"
        "t-4 OOM rack1 - pc-d\n"
        "-- end of list --\n"
    )
    rows = read_rows(out, description(states={**description().states}))
    assert [(row.job_id, row.name, row.entry.status, row.entry.node) for row in rows] == [
        ("t-1", "pc-a", "running", "rack7"),
        ("t-2", "pc-b", "pending", ""),
        ("t-3", "pc-c", "unclear", ""),
        ("t-4", "pc-d", "ended", "rack1"),
    ]
    assert [row.mark for row in rows] == ["m1", "m2", "m3", "-"]
    assert "'Rebooting'" in rows[2].entry.detail
    assert (rows[3].entry.state, rows[3].entry.oom_killed) == ("OUT_OF_MEMORY", True)
    assert read_rows(out.replace("-- end of list --", ""), description()) is None


def test_a_state_that_is_as_good_as_no_job() -> None:
    rows = read_rows("t-1 Expired - - pc-a\n", description(states={"Expired": "gone"}, whole_pattern=""))
    assert rows[0].entry is None


def test_ids() -> None:
    assert read_id("Hello\nSubmitted task <t-7> to pool x\n", description()) == "t-7"
    assert read_id("Submitted task <t-7>\nSubmitted task <t-8>\n", description()) == ""
    assert read_id("job accepted: 99\n", description(id_pattern=r"(?P<id>\S+)\s*\Z")) == "99"
