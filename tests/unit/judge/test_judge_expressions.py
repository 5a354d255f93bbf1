import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.judge.expressions import ExpressionError, show
from prefect_campaign.judge.facts import RUN, RunFacts

FACTS = RunFacts(
    metrics={
        "train/loss": [(0, 1.0), (1, 2.0), (2, 3.0), (3, 12.0)],
        "val/loss": [(0, 1.0), (1, math.nan)],
        "val/accuracy": [(None, 0.5), (None, math.inf)],
        "weird[0]/loss{last('x')}": [(0, 7.0)],
    },
    objective="val/accuracy",
    log_tail=["epoch 1", "warning: slow", "epoch 2"],
    exp_id="a_s0",
)
NAMES = {"exp_id": "a_s0", "objective": "val/accuracy", "state": "running", "alerts": 0}


def value(text, facts=FACTS):
    RUN.check(text)
    return RUN.evaluate(text, facts, NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('last("train/loss")', 12.0),
        ('mean("train/loss")', 4.5),
        ('mean_before_last("train/loss")', 2.0),
        ('min("train/loss") + max("train/loss")', 13.0),
        ("max(1, 2, 3) - min(4, 5)", -1.0),
        ('min("val/loss")', 1.0),
        ('count("val/loss")', 2),
        ('has("val/loss") and not has("nothing")', True),
        ('any_non_finite("val/*")', True),
        ('any_non_finite("train/*")', False),
        ("any_non_finite(objective)", True),
        ('any_non_finite("*LOSS")', True),
        ('matches("^epoch [0-9]+$")', 2),
        ('last_step("train/loss")', 3),
        ('last_step("val/accuracy") == None', True),
        ("steps()", 4),
        ('steps("val/*")', 2),
        ("abs(-3) + len('four') + 2 ** 3", 15.0),
        ("1 < 2 < 3 and 'a' in 'cat'", True),
        ("1 / 0 > 1 or 1 % 0 > 1", False),
        ("10.0 ** 64 ** 1 > 1", True),
        ("(-8) ** 0.5 > 0", False),
    ],
)
def test_expressions(text, expected):
    assert value(text) == expected


def test_what_is_missing_makes_no_comparison_true():
    for comparison in ('last("no") > 0', 'last("no") <= 0', 'mean("no") >= 0', 'last_step("no") < 1'):
        assert value(comparison) is False


def test_mean_of_huge_values_does_not_overflow():
    facts = RunFacts(metrics={"x": [(0, 1.5e308)] * 4}, objective="x")
    assert value('mean("x")', facts) == pytest.approx(1.5e308)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('true')", "attribute is not allowed"),
        ("exit()", "unknown function"),
        ("__import__('os')", "unknown function"),
        ("().__class__.__bases__", "attribute is not allowed"),
        ("[x for x in (1, 2)]", "listcomp is not allowed"),
        ("(lambda: 1)()", "lambda is not allowed"),
        ("last('a')[0]", "subscript is not allowed"),
        ("f'{exp_id}'", "joinedstr is not allowed"),
        ("'x' if 1 else 'y'", "ifexp is not allowed"),
        ("(y := 3)", "namedexpr is not allowed"),
        ("b'bytes' == 1", "constant is not allowed"),
        ("1e999 > 0", "constant is not allowed"),
        ("9" * 400, "constant is not allowed"),
        ("1 << 1000", "binop is not allowed"),
        ("secret > 1", "unknown name 'secret'"),
        ("last > 1", "unknown name 'last'"),
        ("last()", "missing a required argument"),
        ("last('a', 'b')", "too many positional"),
        ("last(metric='a')", "keyword is not allowed"),
        ("last(*'ab')", "starred is not allowed"),
        ("import os", "is not an expression"),
        ("1 +", "is not an expression"),
        ("", "is not an expression"),
        ("\0", "is not an expression"),
        ("(" * 240 + "1" + ")" * 240, "is not an expression"),
        ("-" * 499 + "1" + "1", "longer than"),
    ],
)
def test_hostile_expressions_are_refused_before_they_are_evaluated(text, reason):
    with pytest.raises(ExpressionError, match=reason):
        RUN.check(text)


@pytest.mark.parametrize(
    "text",
    [
        "2 ** 1000",
        "2 ** -65",
        "2 ** (1 / 0)",
        "'a' * 9",
        "exp_id + 1",
        "exp_id < 1",
        "1 in 2",
        "last(3)",
        "any_non_finite(1)",
        "abs('x')",
        "len(3)",
        "latest('*', 99)",
        "matches('(')",
        "matches('(?=x)')",
        "matches('(a{1000}){1000}')",
        f"matches('{'a' * 201}')",
    ],
)
def test_values_of_the_wrong_kind_are_an_error_and_nothing_else(text):
    RUN.check(text)
    with pytest.raises(ExpressionError):
        RUN.evaluate(text, FACTS, NAMES)


def test_numbers_cannot_grow_without_bound():
    assert value("(1e300 * 1e300) > 1e300") is True
    assert value("((1e5 ** 64) ** 64) > 1") is True


def test_deep_but_short_expressions_evaluate():
    assert value("not " * 120 + "True") is True


@given(st.text(max_size=60))
def test_any_text_is_refused_or_evaluated_but_never_breaks(text):
    try:
        RUN.check(text)
        RUN.evaluate(text, FACTS, NAMES)
    except ExpressionError:
        pass


@given(st.lists(st.tuples(st.integers(0, 9), st.floats()), max_size=8))
def test_functions_survive_every_float(points):
    facts = RunFacts(metrics={"x": points}, objective="x")
    for text in ("last('x') >= 3 * mean_before_last('x')", "min('x') <= max('x')", "mean('x') > 0"):
        assert value(text, facts) in (True, False)


def test_a_catastrophic_pattern_meets_a_hostile_log():
    facts = RunFacts(metrics={}, objective="x", log_tail=["a" * 100_000] * 500)
    assert value(r'matches("(a+)+$")', facts) == 120
    assert value(r'matches("(a|aa)+x")', facts) == 0


def test_templates_show_values_and_do_not_read_them_again():
    name = "weird[0]/loss{last('x')}"
    text = RUN.fill("{m} is {last(m)} of {count('train/loss')}", FACTS, {**NAMES, "m": name})
    assert text == f"{name} is 7 of 4"
    with pytest.raises(ExpressionError, match="unknown name"):
        RUN.check_template("{nope}")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (0.123456789, "0.12346"),
        (2000.0, "2000"),
        (1e20, "1e+20"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "yes"),
        (None, "none"),
        ((), "none"),
        (("a", "b"), "a, b"),
        ("two\nlines \x00", "two lines \x00"),
        ("x" * 500, "x" * 119 + "…"),
    ],
)
def test_values_as_people_read_them(raw, text):
    assert show(raw) == text
