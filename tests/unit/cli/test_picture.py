"""The picture of a campaign in a terminal."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from prefect_campaign.cli.picture import MOST_REASONS, experiment_table, reasons, render
from prefect_campaign.model.records import ExperimentView

ROW = {"name": "demo", "round": 1, "iteration": 1, "status": "open", "stage": "full", "owner": None}


@pytest.mark.parametrize(
    ("state", "owner", "told"), [("ready", "me", True), ("done", "me", False), ("ready", None, False)]
)
def test_why_experiments_wait_is_told_while_they_do(state: str, owner: str | None, told: bool) -> None:
    view = ExperimentView("e1", "full", "full", 0, "main", None, None, 0, {}, state)
    row = {**ROW, "owner": owner, "owner_expires": time.time() + 60, "waits": "1 wait: 1 for 2 GPUs"}
    out = io.StringIO()
    Console(file=out, width=100).print(render(row, [view]))
    assert ("1 wait: 1 for 2 GPUs" in out.getvalue()) == told


def test_a_note_takes_the_room_that_there_is() -> None:
    note = "host gpu1 does not answer, and nobody knows"
    view = ExperimentView("e1", "full", "full", 0, "main", None, None, 0, {}, "on_hold", reason=note)
    for width, told in ((80, note), (60, "host gpu1 does not answe")):
        out = io.StringIO()
        Console(file=out, width=width).print(experiment_table([view], width))
        assert told in out.getvalue()
        assert ("…" in out.getvalue()) == (told != note)
        assert len(out.getvalue().splitlines()) == 2


def test_what_an_experiment_waits_for_before_its_launch_is_told() -> None:
    why = "waits: h1: GPU 0 (RTX) is used by eve's python (pid 7)"
    view = ExperimentView("e1", "full", "full", 0, "main", None, None, 0, {}, "launching", reason=why)
    out = io.StringIO()
    Console(file=out, width=100).print(experiment_table([view], 100))
    assert why in out.getvalue()


@pytest.mark.parametrize("state", ["failed", "on_hold"])
def test_words_of_a_reason_are_neither_markup_nor_obeyed_by_the_terminal(state: str) -> None:
    reason = "OSError: [/data/x] is full \x1b]0;t\x07"
    view = ExperimentView("e1", "full", "full", 0, "main", None, None, 0, {}, state, ended_at=1.0, reason=reason)
    out = io.StringIO()
    console = Console(file=out, width=100)
    console.print(render(ROW, [view]))
    console.print(experiment_table([view], 100))
    assert "OSError: [/data/x] is full ]0;t" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_reasons_are_told_in_full_and_each_once() -> None:
    why = "lab: sbatch: pc-demo-{}-a1: invalid partition [x]\x1b specified; set `partition` of the block " + "." * 200
    views = [ExperimentView(f"e{n}", "full", "full", 0, "main", None, None, 0, {}, "failed") for n in range(9)]
    views = [replace(v, reason=why.format(v.exp_id) if v.exp_id < "e3" else f"reason {v.exp_id[1]}") for v in views]
    views.append(replace(views[0], exp_id="well", state="done", reason="went well"))
    lines = reasons(views)
    assert lines[0] == "failed: e0 and 2 more: " + why.format("…").replace("\x1b", "")
    assert len(lines) == MOST_REASONS + 1
    assert lines[-1] == "and 2 other reasons"
    assert not any("went well" in line for line in lines)
