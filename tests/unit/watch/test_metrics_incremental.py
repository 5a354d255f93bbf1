"""Metric files that grow, are cut or replaced, or are huge."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_campaign.model.records import MetricRow
from prefect_campaign.watch import files
from prefect_campaign.watch.metrics import read_metrics, read_rest


def shown(rows):
    """Rows in a form where nan equals nan."""
    return [(repr(sorted(r.values.items())), r.step, r.time) for r in rows]


LINES = st.one_of(
    st.sampled_from(
        [
            "---",
            "a: 1",
            "b: x",
            "loss=2.5",
            "step=3 acc=nan",
            '{"loss": 1, "step": 2}',
            '{"v": {"a": "NaN"}}',
            "{",
            "",
            "x" * 45,
            "k=1 " * 15,
        ]
    ).map(str.encode),
    st.binary(max_size=50).map(lambda b: b.replace(b"\n", b"")),
    st.text(max_size=20).map(lambda t: t.replace("\n", "").encode("utf-8", "replace")),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINES, max_size=12),
    newline_at_end=st.booleans(),
    cuts=st.lists(st.integers(0, 300), max_size=10),
    limit=st.integers(60, 120),
)
def test_any_chunking_of_the_files_gives_the_same_rows(tmp_path, lines, newline_at_end, cuts, limit):
    data = b"\n".join(lines) + (b"\n" if newline_at_end else b"")
    paths = [tmp_path / "metrics.jsonl", tmp_path / "stdout.log"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "MAX_LINE", 40)
        for path in paths:
            path.write_bytes(data)
        whole, last = read_rest(tmp_path, {})
        patched.setattr(files, "MAX_READ", limit)
        rows, cursor = [], {}
        for cut in sorted(cuts):
            for path in paths:
                path.write_bytes(data[:cut])
            more, cursor = read_metrics(tmp_path, json.loads(json.dumps(cursor)))
            rows += more
        for path in paths:
            path.write_bytes(data)
        more, cursor = read_rest(tmp_path, cursor)
        rows += more
    assert sorted(shown(rows), key=repr) == sorted(shown(whole), key=repr)
    for name in ("metrics.jsonl", "stdout.log"):
        assert cursor.get(name) == last.get(name)


def test_rows_of_one_file_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 50)
    monkeypatch.setattr(files, "MAX_READ", 64)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(200)))
    first, cursor = read_metrics(tmp_path, {})
    assert 0 < len(first) < 10
    rest, _ = read_rest(tmp_path, cursor)
    assert [row.values["n"] for row in first + rest] == list(range(200))


def test_reading_the_rest_does_not_stop_at_a_stretch_without_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 50)
    monkeypatch.setattr(files, "MAX_READ", 64)
    (tmp_path / "stdout.log").write_text("just talk\n" * 100 + "acc=1")
    assert read_rest(tmp_path, {})[0] == [MetricRow({"acc": 1.0})]


def test_a_line_that_is_too_long_is_skipped_and_counted_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"b": "' + "x" * (files.MAX_LINE + 5))
    rows, cursor = read_metrics(tmp_path, {})
    with path.open("a") as file:
        file.write("y" * 100)
    more, cursor = read_metrics(tmp_path, cursor)
    with path.open("a") as file:
        file.write('"}\n{"c": 3}\n')
    last, cursor = read_metrics(tmp_path, cursor)
    assert rows + more + last == [MetricRow({"a": 1.0}), MetricRow({"c": 3.0})]
    assert cursor["metrics.jsonl"]["bad"] == 1
    assert "skipping" not in cursor["metrics.jsonl"]


def test_one_call_reads_a_bounded_part_of_a_huge_file(tmp_path):
    line = '{"a": 1, "pad": "' + "x" * 1000 + '"}\n'
    (tmp_path / "metrics.jsonl").write_text(line * 10_000)
    rows, cursor = read_metrics(tmp_path, {})
    assert cursor["metrics.jsonl"]["offset"] <= files.MAX_READ
    assert len(rows) == files.MAX_READ // len(line)


@pytest.mark.parametrize("same_inode", [True, False])
@pytest.mark.parametrize("second", ['{"b": 2}\n', '{"b": 22222222222222}\n{"b": 3}\n'])
def test_a_truncated_or_rotated_file_is_read_from_its_start(tmp_path, same_inode, second):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    _, cursor = read_metrics(tmp_path, {})
    if same_inode:
        path.write_text(second)
    else:
        (tmp_path / "new").write_text(second)
        (tmp_path / "new").rename(path)
    rows, _ = read_metrics(tmp_path, cursor)
    assert [list(row.values) for row in rows] == [["b"]] * second.count("\n")


def test_a_synced_copy_with_the_same_content_is_read_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n')
    _, cursor = read_metrics(tmp_path, {})
    (tmp_path / "copy").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "copy").rename(path)
    assert read_metrics(tmp_path, cursor)[0] == [MetricRow({"a": 2.0})]


def test_a_replaced_log_does_not_begin_inside_the_old_ones_block(tmp_path):
    path = tmp_path / "stdout.log"
    path.write_text("text\n---\na: 1\n")
    _, cursor = read_metrics(tmp_path, {})
    path.write_text("b: 2\n")
    assert read_metrics(tmp_path, cursor)[0] == []


def test_the_callers_cursor_is_never_changed(tmp_path):
    (tmp_path / "stdout.log").write_text("---\na: 1\n")
    _, cursor = read_metrics(tmp_path, {})
    before = json.dumps(cursor)
    with (tmp_path / "stdout.log").open("a") as file:
        file.write("\nb=2\n")
    read_metrics(tmp_path, cursor)
    assert json.dumps(cursor) == before
