"""A process beside the watcher that judges, draws and tracks runs: ``python -m prefect_campaign.engine.analyst NAME``.

Rendering a chart holds the Python interpreter for up to seconds, and a tracker may wait for a network; neither may
delay the refill of a free slot. Requests come as JSON lines on stdin (``{"exp_id": ..., "over": true}``), each is
answered by one JSON line on stdout. When the watcher dies, stdin ends, and so does this process.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from prefect_campaign.engine.analysis import judge_run
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.ledger.observations import note_experiment
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.results.tracking import log_run
from prefect_campaign.watch.metrics import read_metrics

LONGEST_PROBLEM = 2000
"""Characters of a problem that are told; a chart's error may quote the whole chart."""


def needs_analysis(view: ExperimentView) -> bool:
    """Whether an experiment that is over has a course to judge that was not judged yet."""
    return view.points > 1 and view.monitoring.get("attempt") != view.attempt


def needs_tracking(setting: Setting, view: ExperimentView) -> bool:
    """Whether an experiment that is over is not yet a run of the tracker."""
    return setting.campaign.tracking.wandb != "off" and view.run_dir is not None and view.tracking_url is None


def main() -> None:
    """Answer requests until stdin ends."""
    os.nice(5)  # training comes first
    setting = open_setting(sys.argv[1])
    # Whatever libraries print must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(_answer(setting, json.loads(line))) + "\n")
        answers.flush()


def _answer(setting: Setting, request: dict[str, Any]) -> dict[str, Any]:
    try:
        view = setting.view(request["exp_id"])
        if not request["over"]:
            judge_run(setting, view, charts=False)
            return {}
        if needs_analysis(view):
            judge_run(setting, view, charts=True)
        if needs_tracking(setting, view):
            _track(setting, view)
    except Exception as error:  # a chart or a tracker must never end the watching
        return {"problem": f"{type(error).__name__}: {error}"[:LONGEST_PROBLEM]}
    return {}


def _track(setting: Setting, view: ExperimentView) -> None:
    rows: list[MetricRow] = []
    cursor: dict[str, Any] = {}
    while True:
        fresh, cursor = read_metrics(Path(view.run_dir or ""), cursor)
        if not fresh:
            break
        rows += fresh
    folder = setting.home.runs(setting.row.name, setting.row.round).parent / "wandb"
    tracked = log_run(view, setting.campaign, rows, folder)
    place = tracked.url or (f"offline:{tracked.path}" if tracked.path else None)
    if place:
        with setting.ledger.write() as connection:
            note_experiment(connection, setting.row.id, view.exp_id, tracking_url=place)
    if tracked.problem:
        raise RuntimeError(f"W&B: {tracked.problem}")


if __name__ == "__main__":
    main()
