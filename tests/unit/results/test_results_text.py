import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from prefect_campaign.results.text import clean, difference, duration, markdown, number, one_line, p_value, spread, when


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0.0000"), (0.9123456, "0.9123"), (12.3456, "12.35"), (123456.0, "123456"),
        (1.5e-7, "1.500e-07"), (-2e9, "-2.000e+09"), (math.nan, "nan"), (math.inf, "∞"), (-math.inf, "-∞"),
    ],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert number(value) == text


def test_spread_and_difference_end_at_the_digit_of_the_mean():
    assert spread(0.91234, 0.01234) == "0.9123 ± 0.0123"
    assert spread(0.91234, None) == "0.9123"
    assert spread(None, None) == "–"
    assert difference(0.0451512, 0.92) == "+0.0452"
    assert difference(-3.0, 120.0) == "-3.0"
    assert difference(None, 1.0) == "–"


def test_p_values_durations_and_times():
    assert (p_value(0.0), p_value(0.0312)) == ("< 0.001", "0.031")
    assert (duration(42), duration(90), duration(5400)) == ("42 s", "1.5 min", "1.5 h")
    assert (when(None), when(0.0), when(1e300), when(math.nan)) == ("", "1970-01-01T00:00:00Z", "", "")


def test_foreign_text_is_made_valid_and_cut():
    assert clean("a\x00\r\nb\rc\udc80") == "a\nb\nc?"
    assert one_line("  a\n\tb  ") == "a b"
    assert one_line("\x1b]0;title\x07\x1b[31ma\x0bb\x9b2J") == "]0;title[31ma b2J"
    assert one_line("abcdef", 4) == "abc…"


@given(st.text())
@example("__0__")
def test_markdown_shows_any_text_literally(text):
    """Rendered and read back, it is the same line: no tag, link, emphasis or cell comes out of it."""
    table = f"| x |\n| --- |\n| a{markdown(text)}z |\n"
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(table)
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 2
    shown = "".join(c.content for c in cells[1].children)
    assert {c.type for c in cells[1].children} <= {"text", "text_special"}
    assert shown == one_line(f"a{one_line(text)}z")


@pytest.mark.parametrize("text", ["[lr=0.1]", "64 -> 32", "val_loss", "a & b", "x (y)", "-1.5"])
def test_harmless_text_stays_readable(text):
    assert markdown(text) == text


@pytest.mark.parametrize(
    "text", ["- x", "1. x", "# x", "> x", "+ x", "---", "* x", "_x_", "<b>", "&lt;", "[a](b)", "`x`"]
)
def test_line_starts_and_markup_are_shown_too(text):
    tokens = MarkdownIt("commonmark").parse(markdown(text))
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(c.content for c in tokens[1].children) == text
