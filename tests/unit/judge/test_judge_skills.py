import shutil

import pytest

from prefect_campaign.judge.monitor import analyse
from prefect_campaign.judge.rules import RunFacts
from prefect_campaign.judge.skills import PACKAGE_SKILLS, load_skills

FRONT = "---\nname: {name}\ndescription: Looks at x.\nmetadata:\n  kind: monitor\n---\n# Body\n"
RULES = "rules:\n  - {name: r, when: steps() > 0, note: seen}\n"


@pytest.fixture
def make(tmp_path):
    def make(name, skill_md=None, rules=RULES):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "SKILL.md").write_text(skill_md if skill_md is not None else FRONT.format(name=name))
        if rules is not None:
            (folder / "rules.yaml").write_text(rules)
        return folder

    return make


def test_the_shipped_skills_are_sound():
    found = load_skills()
    assert found.errors == []
    assert set(found.skills) >= {"training-monitor", "design-review"}
    for name, skill in found.skills.items():
        assert skill.source == PACKAGE_SKILLS / name
        assert skill.body.startswith("# ")


def test_editing_a_skill_changes_behaviour_at_the_next_load(tmp_path):
    shutil.copytree(PACKAGE_SKILLS / "training-monitor", tmp_path / "training-monitor")
    facts = RunFacts(metrics={"loss": [(i, v) for i, v in enumerate([1.0, 1.0, 1.0, 2.5])]}, objective="acc")
    rules = tmp_path / "training-monitor" / "rules.yaml"

    def action():
        skill = load_skills([tmp_path]).skills["training-monitor"]
        assert skill.source.parent == tmp_path
        return analyse(skill, facts).action

    assert action() == "ignore"
    rules.write_text(rules.read_text().replace("3 * mean_before_last", "2 * mean_before_last"))
    assert action() == "alert"


def test_a_later_folder_wins_by_name(make, tmp_path):
    make("design-review", rules=None)
    found = load_skills([tmp_path])
    assert found.errors == []
    assert found.skills["design-review"].rules is None
    assert found.skills["training-monitor"].source.parent == PACKAGE_SKILLS


def test_a_broken_one_is_told_and_the_shipped_one_stays(make, tmp_path):
    folder = make("training-monitor", rules="rules:\n  - {name: bad, when: 'exit()'}\n")
    found = load_skills([tmp_path])
    assert found.skills["training-monitor"].source.parent == PACKAGE_SKILLS
    (error,) = found.errors
    assert error.startswith(f"{folder / 'rules.yaml'}: ")
    assert "rule 'bad': when: unknown function 'exit'" in error
    assert f"using {PACKAGE_SKILLS / 'training-monitor'} instead" in error


@pytest.mark.parametrize(
    ("skill_md", "reason"),
    [
        ("", "front matter"),
        ("# no front matter", "front matter"),
        ("---\nname: x\n", "front matter"),
        ("---\n[1, 2]\n---\n", "mapping"),
        ("---\nname: [\n---\n", "not valid YAML"),
        ("---\nname: other\ndescription: d\n---\n", "but its folder is"),
        ("---\nname: X y\ndescription: d\n---\n", "lower-case"),
        ("---\nname: x\n---\n", "description"),
        ("---\nname: x\ndescription: ''\n---\n", "description"),
        (f"---\nname: x\ndescription: {'d' * 1025}\n---\n", "description"),
        ("---\nname: x\ndescription: d\nkind: monitor\n---\n", "unknown field 'kind'"),
        ("---\nname: x\ndescription: d\nmetadata: 3\n---\n", "metadata"),
        ("---\nname: x\ndescription: d\n---\n", "metadata.kind"),
        ("---\nname: x\nname: x\ndescription: d\n---\n", "given twice"),
    ],
)
def test_a_malformed_skill_md_names_its_path_and_what(make, tmp_path, skill_md, reason):
    folder = make("x", skill_md)
    found = load_skills([tmp_path])
    assert "x" not in found.skills
    (error,) = found.errors
    assert error.startswith(str(folder))
    assert reason in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("", "mapping"),
        ("rules: []", "rules"),
        ("rules:\n  - {name: a, when: last('x')}\n  - {name: b}", "rules.1.when"),
        ("rules:\n  - {name: a, when: m > 1}", "rule 'a': when: unknown name 'm'"),
        ("rules:\n  - {name: a, when: 'True', note: '{nope}'}", "rule 'a': note: unknown name 'nope'"),
        ("rules:\n  - {name: a, when: 'True', nte: x}", "nte"),
        (
            "rules:\n  - {name: a, when: 'True', decision: {syndrome: none, message: x}}",
            "'none' stands for no decision",
        ),
        ("rules:\n  - {name: a, when: 'True', when: 'False'}", "key 'when' is given twice"),
        ("rules: &a\n  - {name: a, when: 'True', tags: *a}", "aliases are not allowed"),
        ("rules: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 1000, "not valid YAML"),
        ("# " + "x" * 300_000, "larger than"),
    ],
)
def test_malformed_rules_name_their_path_and_rule(make, tmp_path, rules, reason):
    folder = make("x", rules=rules)
    found = load_skills([tmp_path])
    (error,) = found.errors
    assert error.startswith(str(folder / "rules.yaml"))
    assert reason in error


def test_missing_and_unreadable_files(make, tmp_path):
    (tmp_path / "empty").mkdir()
    (make("binary") / "SKILL.md").write_bytes(b"---\nname: \xff\xfe\n---\n")
    (tmp_path / "README.md").write_text("not a skill")
    (tmp_path / ".git").mkdir()
    found = load_skills([tmp_path, tmp_path / "nowhere"])
    assert [e.split(": ")[0] for e in found.errors] == [
        str(tmp_path / "binary" / "SKILL.md"),
        str(tmp_path / "empty" / "SKILL.md"),
        str(tmp_path / "nowhere"),
    ]


def test_windows_line_ends_and_a_byte_order_mark_are_fine(make, tmp_path):
    folder = make("x")
    (folder / "SKILL.md").write_bytes(b"\xef\xbb\xbf" + FRONT.format(name="x").replace("\n", "\r\n").encode())
    found = load_skills([tmp_path])
    assert found.errors == []
    assert found.skills["x"].body == "# Body"
