import csv
import json
import math
from pathlib import Path

import pytest

from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.log import COLUMNS, write_experiment_log

FIXED = [
    "experiment_id",
    "parent_experiment_id",
    "queue_job_id",
    "status",
    "task_key",
    "command",
    "config_path",
    "run_dir",
    "objective_metric",
    "objective_mode",
    "objective_value",
    "metrics_json",
    "hypothesis",
    "change_summary",
    "result_summary",
    "next_action",
    "started_at",
    "ended_at",
    "created_at",
    "updated_at",
    "owner",
    "notes",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experiment_log.csv"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(path: Path, change) -> None:
    """Do to the log what a person with a spreadsheet does."""
    rows = read(path)
    names = list(rows[0])
    change(rows, names)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def test_columns_are_fixed():
    assert list(COLUMNS) == FIXED


def test_a_row_says_what_was_run_and_what_came_out(campaign, view, path):
    done = view(
        parent="old", changes=("batch 64 -> 32",), metrics={"final/accuracy": 0.9, "x": math.nan, "y": math.inf},
        hypothesis="h", result_summary="r", next_action="n", notes="note",
    )  # fmt: skip
    assert write_experiment_log([done], campaign, path, config_path="spec.yaml", owner="ann") == []

    (row,) = read(path)
    assert list(row) == FIXED
    assert json.loads(row.pop("metrics_json")) == {"final/accuracy": 0.9, "x": "NaN", "y": "Infinity"}
    assert row == {
        "experiment_id": "ours_d1_main_s0",
        "parent_experiment_id": "old",
        "queue_job_id": "4711",
        "status": "completed",
        "task_key": "full/main/ours/d1",
        "command": "python train.py",
        "config_path": "spec.yaml",
        "run_dir": "/runs/ours/a1",
        "objective_metric": "final/accuracy",
        "objective_mode": "max",
        "objective_value": "0.9",
        "hypothesis": "h",
        "change_summary": "batch 64 -> 32",
        "result_summary": "r",
        "next_action": "n",
        "started_at": "2023-11-14T22:13:30Z",
        "ended_at": "2023-11-14T22:15:00Z",
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:15:00Z",
        "owner": "ann",
        "notes": "note",
    }


def test_every_state_has_a_word_of_the_log(campaign, view, path):
    views = [view(state=s, exp_id=str(s)) for s in ExperimentState]
    write_experiment_log(views, campaign, path)

    words = {r["experiment_id"]: r["status"] for r in read(path)}
    assert set(words.values()) == {"planned", "queued", "running", "completed", "failed", "cancelled", "superseded"}
    assert (words["ready"], words["launching"], words["done"]) == ("planned", "queued", "completed")


@pytest.mark.parametrize(
    ("started", "ended", "word"), [(1.0, None, "running"), (1.0, 2.0, "queued"), (None, None, "queued")]
)
def test_on_hold_tells_whether_something_runs(campaign, view, path, started, ended, word):
    write_experiment_log([view(state="on_hold", started_at=started, ended_at=ended)], campaign, path)
    assert read(path)[0]["status"] == word


def test_notes_written_by_people_survive_every_sync(campaign, view, path):
    write_experiment_log([view(), view(seed=1)], campaign, path)
    edit(path, lambda rows, _: rows[0].update(notes='mine,\nwith "quotes"', hypothesis="theirs", owner="bob"))

    for _ in range(3):
        assert write_experiment_log([view(), view(seed=1, hypothesis="ours")], campaign, path) == []

    first, second = read(path)
    assert (first["notes"], first["hypothesis"], first["owner"]) == ('mine,\nwith "quotes"', "theirs", "bob")
    assert (second["notes"], second["hypothesis"]) == ("", "ours")


def test_notes_of_file_and_ledger_are_both_kept_once(campaign, view, path):
    write_experiment_log([view(notes="from the ledger")], campaign, path)
    edit(path, lambda rows, _: rows[0].update(notes="from a person"))

    for _ in range(2):
        write_experiment_log([view(notes="from the ledger")], campaign, path)

    assert read(path)[0]["notes"] == "from a person\nfrom the ledger"


def test_facts_are_ours_whatever_the_file_says(campaign, view, path):
    write_experiment_log([view()], campaign, path)
    edit(path, lambda rows, _: rows[0].update(status="completed", objective_value="99", result_summary="great"))

    write_experiment_log([view(state="failed", objective_value=None, reason="out of memory")], campaign, path)

    row = read(path)[0]
    assert (row["status"], row["objective_value"], row["result_summary"]) == ("failed", "", "out of memory")


def test_columns_and_rows_of_others_are_kept_and_nothing_is_doubled(campaign, view, path):
    write_experiment_log([view()], campaign, path)

    def change(rows, names):
        names.append("reviewer")
        rows[0]["reviewer"] = "eve"
        rows.append({"experiment_id": "by-hand", "notes": "typed in", "reviewer": "mallory"})

    edit(path, change)
    for _ in range(2):
        write_experiment_log([view(), view(seed=1)], campaign, path)

    rows = read(path)
    assert list(rows[0]) == [*FIXED, "reviewer"]
    assert [r["experiment_id"] for r in rows] == ["ours_d1_main_s0", "ours_d1_main_s1", "by-hand"]
    assert [r["reviewer"] for r in rows] == ["eve", "", "mallory"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_a_spreadsheet_saves_is_read(campaign, view, path, delimiter):
    path.write_bytes(b"\xef\xbb\xbf" + delimiter.join(["experiment_id", "notes"]).encode() + b"\r\n"
                     + delimiter.join(["ours_d1_main_s0", '"kept, all"']).encode() + b"\r\n")  # fmt: skip

    assert write_experiment_log([view()], campaign, path) == []
    assert [r["notes"] for r in read(path)] == ["kept, all"]


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\x00garbage",
        b"some,other,table\n1,2,3\n",
        b'experiment_id,notes\nx,"never closed\n',
        b"experiment_id,experiment_id\na,b\n",
        b"experiment_id,notes\na,b,c,d\n",
    ],
)
def test_a_damaged_file_is_moved_aside_and_reported(campaign, view, path, damage):
    (path.parent / "experiment_log.csv.damaged-1").write_text("an older one")
    path.write_bytes(damage)

    (problem,) = write_experiment_log([view()], campaign, path)

    assert "experiment_log.csv.damaged-2" in problem
    assert (path.parent / "experiment_log.csv.damaged-2").read_bytes() == damage
    assert (path.parent / "experiment_log.csv.damaged-1").read_text() == "an older one"
    assert [r["experiment_id"] for r in read(path)] == ["ours_d1_main_s0"]


def test_hostile_text_and_huge_cells_come_back(campaign, view, path, hostile):
    huge = view(
        hypothesis=hostile + "\r\n=1+1", metrics={f"m{i}": float(i) for i in range(20_000)}, notes="carriage\rreturn"
    )
    for _ in range(2):
        assert write_experiment_log([huge], campaign, path) == []

    (row,) = read(path)
    assert row["hypothesis"] == hostile.replace("\x00", "").replace("\ud800", "?") + "\n=1+1"
    assert row["notes"] == "carriage\nreturn"
    assert len(json.loads(row["metrics_json"])) == 20_000


def test_empty_campaign_and_empty_file(campaign, path):
    path.write_text("\n")
    assert write_experiment_log([], campaign, path) == []
    assert path.read_text() == ",".join(FIXED) + "\n"


def test_syncing_again_changes_nothing(campaign, study, path):
    write_experiment_log(study, campaign, path)
    before = path.read_bytes()
    write_experiment_log(study, campaign, path)
    assert path.read_bytes() == before
