"""What counts as a metric row, in metrics.jsonl and on stdout."""

import json
import math
import os

import pytest

from prefect_campaign.model.records import MetricRow
from prefect_campaign.watch.metrics import final_values, non_finite, read_metrics, read_rest

NAN, INF = math.nan, math.inf


def shown(rows):
    """Rows in a form where nan equals nan."""
    return [(repr(sorted(r.values.items())), r.step, r.time) for r in rows]


def jsonl(tmp_path, *lines, end="\n"):
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + end.encode()
    )
    return read_metrics(tmp_path, {})


def stdout(tmp_path, text):
    (tmp_path / "stdout.log").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metrics(tmp_path, {})[0]


# -- metrics.jsonl ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"loss": 0.5}', MetricRow({"loss": 0.5})),
        ('{"loss": 1, "step": 3, "time": 17.5}', MetricRow({"loss": 1.0}, 3.0, 17.5)),
        (
            '{"val": {"loss": 1, "top": {"k5": 2}}, "a/b": 3}',
            MetricRow({"val/loss": 1.0, "val/top/k5": 2.0, "a/b": 3.0}),
        ),
        (
            '{"loss": -1e999, "n": 1' + "0" * 400 + ', "m": -1' + "0" * 400 + "}",
            MetricRow({"loss": -INF, "n": INF, "m": -INF}),
        ),
        (
            '{"a": Infinity, "b": "-Infinity", "c": "inf", "d": " +INF "}',
            MetricRow({"a": INF, "b": -INF, "c": INF, "d": INF}),
        ),
        ('{"ok": true, "name": "run", "none": null, "list": [1], "loss": 0}', MetricRow({"loss": 0.0})),
        ('{"text number": "0.5", "loss": 0}', MetricRow({"loss": 0.0})),
        ('{"loss": 2, "step": "x", "time": NaN}', MetricRow({"loss": 2.0})),
        ('\ufeff {"Genauigkeit µ": 0.1}\r', MetricRow({"Genauigkeit µ": 0.1})),
        ('{"a": 1, "a": 2}', MetricRow({"a": 2.0})),
    ],
)
def test_a_line_of_json_is_a_row(tmp_path, line, row):
    rows, cursor = jsonl(tmp_path, line)
    assert rows == [row]
    assert "bad" not in cursor["metrics.jsonl"]


@pytest.mark.parametrize("word", ["NaN", '"NaN"', '"nan"', '"-nan"'])
def test_nan_is_a_number_in_every_spelling(tmp_path, word):
    rows, _ = jsonl(tmp_path, f'{{"loss": {word}}}')
    assert math.isnan(rows[0].values["loss"])


@pytest.mark.parametrize("line", ["", "   ", "{}", '{"step": 1}', '{"msg": "hi"}', '{"a": {"b": {}}}', '{"": 1}'])
def test_a_line_without_a_metric_is_neither_row_nor_bad(tmp_path, line):
    rows, cursor = jsonl(tmp_path, line)
    assert rows == []
    assert "bad" not in cursor["metrics.jsonl"]


def test_bad_lines_are_counted_and_the_others_are_read(tmp_path):
    bad = ["{", "3", "[1]", '"x"', "null", "loss=3", b"\xff\xfe", "[" * 100_000, '{"a":' * 100_000, b"\0" * 10]
    lines = [line for b in bad for line in (b, '{"loss": 1}')]
    rows, cursor = jsonl(tmp_path, *lines)
    assert rows == [MetricRow({"loss": 1.0})] * len(bad)
    assert cursor["metrics.jsonl"]["bad"] == len(bad)
    _, again = read_metrics(tmp_path, cursor)
    assert again == cursor


def test_names_are_made_safe_for_databases(tmp_path):
    rows, _ = jsonl(tmp_path, r'{"a\ud800b": 1, "c\u0000d": 2, "e\nf": 3}', '{"' + "n" * 5000 + '": 4}', b'{"\xff": 5}')
    names = [name for row in rows for name in row.values]
    assert names[:3] == ["a?b", "c?d", "e?f"]
    assert len(names[3]) == 200
    for name in names:
        assert name.isprintable()
        name.encode()


def test_a_half_written_line_is_left_for_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    rows, cursor = read_metrics(tmp_path, {})
    assert rows == [MetricRow({"a": 1.0})]
    assert read_metrics(tmp_path, cursor) == ([], cursor)
    path.write_text('{"a": 1}\n{"a": 2}\n')
    rows, cursor = read_metrics(tmp_path, cursor)
    assert rows == [MetricRow({"a": 2.0})]
    assert "bad" not in cursor["metrics.jsonl"]


def test_a_last_line_without_newline_counts_once_the_job_is_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\n{"a": 2}')
    (tmp_path / "stdout.log").write_text("b=3")
    assert read_metrics(tmp_path, {})[0] == [MetricRow({"a": 1.0})]
    rows, cursor = read_metrics(tmp_path, {}, final=True)
    assert rows == [MetricRow({"b": 3.0}), MetricRow({"a": 1.0}), MetricRow({"a": 2.0})]
    assert read_metrics(tmp_path, cursor, final=True) == ([], cursor)


def test_nothing_there_is_nothing_new(tmp_path):
    assert read_metrics(tmp_path, {}) == ([], {})
    assert read_metrics(tmp_path / "nowhere", {}) == ([], {})
    assert read_rest(tmp_path, {}) == ([], {})


def test_a_file_that_cannot_be_read_says_so_in_the_cursor_until_it_can(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.mkdir()
    rows, cursor = read_metrics(tmp_path, {})
    assert rows == []
    assert str(path) in cursor["metrics.jsonl"]["error"]
    path.rmdir()
    os.mkfifo(path)
    rows, cursor = read_metrics(tmp_path, cursor)
    assert "not a regular file" in cursor["metrics.jsonl"]["error"]
    path.unlink()
    path.write_text('{"a": 1}\n')
    rows, cursor = read_metrics(tmp_path, cursor)
    assert rows == [MetricRow({"a": 1.0})]
    assert "error" not in cursor["metrics.jsonl"]


# -- stdout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("final/accuracy=0.93", {"final/accuracy": 0.93}),
        ("epoch 3: loss=1.5, acc=.5;lr=1e-3 n=+3.", {"loss": 1.5, "acc": 0.5, "lr": 1e-3, "n": 3.0}),
        ("loss=inf grad=-Infinity", {"loss": INF, "grad": -INF}),
        ("précision@5=1", {"précision@5": 1.0}),
        ("loss=0.5s acc=93% lr=1_0 hex=0x1F d=١ e=1e n=nano x=1,5", {"x": 1.0}),
        ("--lr=0.1 --seed=3 a.b/c-d=2", {"a.b/c-d": 2.0}),
        ("x==1 =2 3=4 a= b =5", {}),
        ("(loss=1 [acc=2 ok=3", {"ok": 3.0}),
        ("url=http://h/?a=1&b=2", {}),
        ("loss: 3", {}),
        (" 10%|#   |\r 50%|##  | loss=2\r100%|####| loss=1\r", {"loss": 1.0}),
    ],
)
def test_pairs_on_stdout(tmp_path, line, values):
    rows = stdout(tmp_path, f"{line}\n")
    assert [r.values for r in rows] == ([values] if values else [])


def test_a_printed_step_is_the_rows_step(tmp_path):
    assert stdout(tmp_path, "step=5 loss=1\nstep=6\n") == [MetricRow({"loss": 1.0}, 5.0)]


def test_a_block_of_results(tmp_path):
    text = """loss: 9
---
val_bpb:          0.9979
final/accuracy: 1e-1
device: cuda
peak:\t45060.2 MB
diverged: nan

after: 3
--- not a block
x: 4
---
depth: 8
then something=5 else
y: 6
"""
    rows = stdout(tmp_path, text)
    assert shown(rows) == shown(
        [
            MetricRow({n: v})
            for n, v in (
                ("val_bpb", 0.9979),
                ("final/accuracy", 0.1),
                ("diverged", NAN),
                ("depth", 8.0),
                ("something", 5.0),
            )
        ]
    )


def test_a_block_goes_on_in_the_next_read(tmp_path):
    path = tmp_path / "stdout.log"
    path.write_text("---\na: 1\n")
    rows, cursor = read_metrics(tmp_path, {})
    path.write_text("---\na: 1\nb: 2\n\nc: 3\n")
    more, cursor = read_metrics(tmp_path, json.loads(json.dumps(cursor)))
    assert rows + more == [MetricRow({"a": 1.0}), MetricRow({"b": 2.0})]


def test_bytes_that_are_no_text_do_no_harm(tmp_path):
    rows = stdout(tmp_path, b"\xff\x00\xfe a=1\n\xc3 b=2 \xe2\x82\n" + bytes(range(256)) + b" c=3\n")
    assert final_values(rows) == {"a": 1.0, "b": 2.0, "c": 3.0}


# -- what rows say ------------------------------------------------------------------------------------------------


def test_the_last_value_of_every_metric_is_final():
    rows = [MetricRow({"a": 1, "b": 2}), MetricRow({"a": 3}), MetricRow({})]
    assert final_values(rows) == {"a": 3, "b": 2}
    assert final_values([]) == {}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"loss": NAN}, "loss"),
        ({"train/Loss_total": INF}, "train/Loss_total"),
        ({"loss/grad_norm": NAN}, None),
        ({"final/accuracy": -INF}, "final/accuracy"),
        ({"perplexity": INF}, None),
        ({"loss": 1e308, "final/accuracy": 0.0}, None),
        ({}, None),
    ],
)
def test_a_loss_or_the_objective_that_is_not_finite_is_named(values, found):
    assert non_finite([MetricRow({"ok": 1.0}), MetricRow(values)], "final/accuracy") == found
