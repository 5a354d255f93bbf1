"""Command templates: values are parts of arguments, never of a shell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.model.template import fields_of, fill, text_of, words_of


def test_a_string_is_split_like_a_shell_does() -> None:
    assert words_of("""python 'my train.py' --name "a b" """) == ["python", "my train.py", "--name", "a b"]
    assert words_of(["python", "my train.py"]) == ["python", "my train.py"]


def test_fields_are_found_in_the_middle_of_words() -> None:
    assert fields_of("x --out={run_dir}/log_{seed}.txt {seed} {{literal}}") == {"run_dir", "seed"}


def test_a_literal_brace_stays() -> None:
    assert fill("x {{a}} {a}", {"a": 1}) == ["x", "{a}", "1"]


@pytest.mark.parametrize("command", ["x {", "x }", "x {}", "x {a.b}", "x {a[0]}", "x {a!r}", "x {a:d}", "x {1}"])
def test_only_plain_names_are_fields(command: str) -> None:
    with pytest.raises(ValueError, match=r"^command: "):
        fields_of(command)


@pytest.mark.parametrize("command", ["", "   ", [], "x 'open", 'x "open', "x \\"])
def test_an_empty_or_unbalanced_command_is_refused(command) -> None:
    with pytest.raises(ValueError, match=r"^command: "):
        words_of(command)


def test_a_field_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="b"):
        fill("x {a} {b}", {"a": 1})


def test_booleans_are_written_as_programs_expect_them() -> None:
    assert fill("x {a} {b}", {"a": True, "b": False}) == ["x", "true", "false"]


@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_a_value_is_one_argument_whatever_it_holds(value) -> None:
    assert fill("x --a={a} {a}", {"a": value}) == ["x", f"--a={text_of(value)}", text_of(value)]


@pytest.mark.parametrize("hostile", ["; rm -rf /", "$(id)", "`id`", "a b", "'", '"', "{seed}", "{0}", "\n", "-rf"])
def test_hostile_values_are_left_as_they_are(hostile: str) -> None:
    assert fill("x {a}", {"a": hostile, "seed": 1}) == ["x", hostile]
