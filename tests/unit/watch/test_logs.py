import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_campaign.watch.logs import last_redraw, log_delta, tail


def test_the_last_lines(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    assert tail(path, max_lines=3) == "line 97\nline 98\nline 99"
    assert tail(path, max_lines=0) == ""
    assert len(tail(path).split("\n")) == 50


def test_a_tail_is_bounded_in_bytes_and_starts_with_a_whole_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("first line\nsecond\nthird\n")
    assert tail(path, max_bytes=16) == "second\nthird"
    assert tail(path, max_bytes=13) == "second\nthird"
    assert tail(path, max_bytes=12) == "third"


def test_a_single_endless_line_is_cut_but_shown(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 500_000)
    assert tail(path, max_bytes=100) == "x" * 100


def test_progress_bars_are_shown_in_their_last_state(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"start\r\n" + b"".join(b"\r%d%%" % n for n in range(101)) + b"\n\r\r\ndone\n 1%\r 2%\r")
    assert tail(path) == "start\n100%\n\ndone\n 2%"
    assert last_redraw("a\rb\r\r") == "b"
    assert last_redraw("\r\r") == ""


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"ok\xff\xfe\x00\xe2\x82\nnext\n")
    assert tail(path) == "ok\ufffd\ufffd\ufffd\ufffd\nnext"


def test_a_cut_inside_a_character_does_no_harm(tmp_path):
    path = tmp_path / "log"
    path.write_text("é" * 100)
    assert tail(path, max_bytes=3) == "\ufffdé"


def test_no_log_is_an_empty_text_and_an_unreadable_one_says_so(tmp_path):
    assert tail(tmp_path / "none") == ""
    assert log_delta(tmp_path / "none", {}) == ("", {})
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert "cannot be read" in tail(path)
        text, cursor = log_delta(path, {})
        assert text == ""
        assert cursor["error"]
    (tmp_path / "empty").touch()
    assert tail(tmp_path / "empty") == ""


def test_only_new_text_is_given(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntw")
    text, cursor = log_delta(path, {})
    assert text == "one\ntw"
    assert log_delta(path, cursor) == ("", cursor)
    path.write_text("one\ntwo\n")
    assert log_delta(path, cursor)[0] == "o\n"


@pytest.mark.parametrize("replacement", ["x\n", "completely other and longer text\n"])
def test_a_replaced_log_is_read_from_its_start(tmp_path, replacement):
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    _, cursor = log_delta(path, {})
    path.write_text(replacement)
    assert log_delta(path, cursor)[0] == replacement


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(st.text(max_size=30).map(lambda t: t.encode("utf-8", "replace")), st.binary(max_size=40)),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    limit=st.integers(4, 30),
)
def test_deltas_add_up_to_the_text(tmp_path, data, cuts, limit):
    data = data.replace(b"\r", b"")
    path = tmp_path / "log"
    text, cursor = "", {}
    for cut in [*sorted(cuts), len(data)]:
        path.write_bytes(data[:cut])
        before = None
        while cursor != before:
            before = cursor
            new, cursor = log_delta(path, json.loads(json.dumps(before)), max_bytes=limit)
            assert cursor.get("offset", 0) - before.get("offset", 0) <= limit
            text += new
    assert data.decode("utf-8", "replace").replace("\0", "\ufffd").startswith(text)
    # Only a character that is not whole yet may be missing.
    assert len(data) - cursor.get("offset", 0) <= 3
