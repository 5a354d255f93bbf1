import json
import math
import os

import pytest

from prefect_campaign.judge.artifacts import SIZE_MAX, VERSIONS_KEPT, safe_stem, write_jit_tasks
from prefect_campaign.judge.charts import MAX_POINTS, MAX_ROWS, metric_rows, problem_of
from prefect_campaign.judge.monitor import analyse
from prefect_campaign.judge.rules import RunFacts
from prefect_campaign.judge.schema import Decision, JitTask
from prefect_campaign.judge.skills import load_skills

RUN = RunFacts({"train/loss": [(0, 2.0), (1, 1.0), (2, math.nan)], "val/acc": [(0, 0.1)]}, "val/acc", exp_id="a")
LINE = {
    "data": {"name": "metrics"},
    "mark": "line",
    "encoding": {"x": {"field": "step", "type": "quantitative"}, "y": {"field": "value", "type": "quantitative"}},
}


def chart(content=LINE, file_name="curve", title="Curve"):
    return JitTask(kind="vega_lite_spec", title=title, file_name=file_name, content=content)


def note(content="text", file_name="note"):
    return JitTask(kind="markdown_note", title="Note", file_name=file_name, content=content)


def write(folder, *tasks, facts=RUN):
    return write_jit_tasks(Decision(action="ignore", jit_tasks=list(tasks)), folder, facts)


def names(folder):
    return sorted(os.listdir(folder))


def test_the_shipped_chart_is_written_and_rendered(tmp_path):
    decision = analyse(load_skills().skills["training-monitor"], RUN)
    folder = tmp_path / "run" / "analysis"
    result = write_jit_tasks(decision, folder, RUN)
    assert result.problems == []
    assert result.paths == [folder / f"training-curves{e}" for e in (".json", ".png", ".svg")]
    spec = json.loads((folder / "training-curves.json").read_text())
    assert spec["data"]["values"] == [
        # val/acc has one value: no course to draw
        {"metric": "train/loss", "step": 0, "value": 2.0},
        {"metric": "train/loss", "step": 1, "value": 1.0},
    ]
    assert (folder / "training-curves.png").read_bytes().startswith(b"\x89PNG")
    assert "train/loss" in (folder / "training-curves.svg").read_text()


def test_versions(tmp_path):
    first = write(tmp_path, note("one"))
    assert [p.name for p in first.paths] == ["note.md"]
    assert write(tmp_path, note("one")).paths == []
    assert [p.name for p in write(tmp_path, note("two")).paths] == ["note.v2.md"]
    assert write(tmp_path, note("two")).paths == []
    assert [p.name for p in write(tmp_path, note("one")).paths] == ["note.v3.md"]
    assert (tmp_path / "note.md").read_text() == "# Note\n\none\n"


def test_old_versions_do_not_fill_the_disk(tmp_path):
    for i in range(VERSIONS_KEPT + 3):
        write(tmp_path, note(str(i)))
    assert len(names(tmp_path)) == VERSIONS_KEPT
    assert "note.md" not in names(tmp_path)
    assert f"note.v{VERSIONS_KEPT + 3}.md" in names(tmp_path)


def test_a_chart_is_versioned_as_a_whole(tmp_path):
    write(tmp_path, chart())
    assert write(tmp_path, chart()).paths == []
    more = RunFacts({"train/loss": [(0, 2.0), (1, 5.0)]}, "val/acc")
    result = write(tmp_path, chart(), facts=more)
    assert [p.name for p in result.paths] == ["curve.v2.json", "curve.v2.png", "curve.v2.svg"]


def test_two_tasks_of_one_name_are_two_artifacts(tmp_path):
    tasks = (note("one", "n"), note("two", "N.md"))
    assert [p.name for p in write(tmp_path, *tasks).paths] == ["n.md", "N-2.md"]
    assert write(tmp_path, *tasks).paths == []


@pytest.mark.parametrize(
    ("file_name", "stem"),
    [
        ("curve.json", "curve"),
        ("curve.vl.json", "curve"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\evil.png", "evil"),
        ("/etc/cron.d/x.md", "x"),
        (".bashrc", "bashrc"),
        ("..", "note"),
        ("a/", "note"),
        ("...md", "note"),
        ("-rf", "rf"),
        ("loss curve: ünï\x00\n", "loss-curve-n"),
        ("run.v7.json", "run-v7"),
        ("x" * 200, "x" * 60),
        ("损失", "note"),
        ("／etc／x", "x"),
    ],
)
def test_file_names_are_made_safe(tmp_path, file_name, stem):
    assert safe_stem(file_name, "markdown_note") == stem
    folder = tmp_path / "deep" / "analysis"
    result = write(folder, note(file_name=file_name))
    assert [p.name for p in result.paths] == [f"{stem}.md"]
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == ["analysis"]


def test_a_link_planted_by_a_job_is_not_followed(tmp_path):
    outside = tmp_path / "outside.md"
    outside.write_text("mine")
    folder = tmp_path / "analysis"
    folder.mkdir()
    (folder / "note.v2.md").symlink_to(outside)
    (folder / "note.v3.md").mkdir()
    os.mkfifo(folder / "note.v4.md")
    result = write(folder, note("new"))
    assert [p.name for p in result.paths] == ["note.v5.md"]
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"url": "https://example.org/x.csv"}}, "'url' is not allowed"),
        ({"data": {"url": "file:///etc/passwd"}}, "'url' is not allowed"),
        ({"layer": [{"mark": "point", "data": {"url": "x.csv"}}]}, "'url' is not allowed"),
        ({"transform": [{"lookup": "a", "from": {"data": {"url": "x"}, "key": "a"}}]}, "'url' is not allowed"),
        ({"mark": {"type": "image", "url": "http://x/y.png"}}, "'url' is not allowed"),
        ({"encoding": {"href": {"value": "javascript:alert(1)"}}}, "'href' is not allowed"),
        ({"data": {"sequence": {"start": 0, "stop": 1e12}}}, "not 'sequence'"),
        ({"width": 1e9}, "width is beyond"),
        ({"width": {"step": 1e9}}, "width is beyond"),
        ({"mark": "no-such-mark"}, "does not render"),
        ({"description": math.nan}, "JSON"),
        ({"description": object()}, "JSON"),
        ({"description": "x" * SIZE_MAX}, "the limit is"),
    ],
)
def test_a_chart_that_must_not_be_drawn_leaves_no_file_and_a_reason(tmp_path, change, reason):
    result = write(tmp_path, chart({**LINE, **change}), note())
    assert [p.name for p in result.paths] == ["note.md"]
    (problem,) = result.problems
    assert problem.startswith(f"{tmp_path / 'curve'}.json: ")
    assert reason in problem
    assert names(tmp_path) == ["note.md"]


def test_a_value_column_called_url_is_only_data():
    assert problem_of({"data": {"values": [{"url": "https://example.org", "n": 1}]}, "mark": "bar"}) is None


def test_deep_nesting_is_refused(tmp_path):
    content = {}
    for _ in range(5000):
        content = {"a": content}
    task = JitTask.model_construct(kind="vega_lite_spec", title="t", file_name="f", goal="", content=content)
    decision = Decision.model_construct(jit_tasks=[task])
    assert len(write_jit_tasks(decision, tmp_path, RUN).problems) == 1


def test_a_large_note_is_refused_and_odd_text_is_not(tmp_path):
    result = write(tmp_path, note("x" * SIZE_MAX, "large"), note("\ud800 ünï \x00", "odd"))
    assert [p.name for p in result.paths] == ["odd.md"]
    assert "the limit is" in result.problems[0]


def test_a_folder_that_cannot_be_written_is_a_problem_not_an_exception(tmp_path):
    (tmp_path / "analysis").write_text("a file")
    result = write(tmp_path / "analysis", note())
    assert result.paths == []
    assert "File exists" in result.problems[0]


def test_thinning_keeps_spikes_and_both_ends_of_a_long_curve():
    points = [(i, 1.0) for i in range(100_000)]
    points[43_210] = (43_210, 99.0)
    rows = metric_rows(RunFacts({"loss": points}, "acc"))
    assert len(rows) <= MAX_POINTS
    assert {"metric": "loss", "step": 43_210, "value": 99.0} in rows
    assert rows[0]["step"] == 0
    assert rows[-1]["step"] >= 99_000
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)


def test_many_metrics_stay_within_the_size_limit(tmp_path):
    metrics = {f"m{i}/{'x' * 200}": [(j, j / 7) for j in range(5000)] for i in range(300)}
    facts = RunFacts(
        {**metrics, "loss": [(0, 1.0), (1, 0.5)], "acc": [(0, 1.0), (1, 2.0)], "bad": [(0, math.nan)]}, "acc"
    )
    rows = metric_rows(facts)
    assert len(rows) <= MAX_ROWS
    assert [r["metric"] for r in rows[:4]] == ["acc", "acc", "loss", "loss"]
    result = write(tmp_path, chart(), facts=facts)
    assert result.problems == []


def test_points_without_a_step_are_numbered():
    rows = metric_rows(RunFacts({"x": [(None, 1.0), (7, math.inf), (9, 3.0)], "y": [(math.nan, 1.0), (2, 2.0)]}, "x"))
    assert [(r["metric"], r["step"]) for r in rows] == [("x", 0), ("x", 2), ("y", 0), ("y", 1)]


def test_single_values_are_drawn_where_there_is_nothing_else():
    rows = metric_rows(RunFacts({"x": [(0, 1.0)], "y": [(3, 2.0)]}, "x"))
    assert [r["metric"] for r in rows] == ["x", "y"]
