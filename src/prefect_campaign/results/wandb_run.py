"""One Weights & Biases run: written from start to end, from what the ledger knows of one attempt."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.text import clean, one_line

MAX_ROWS = 2_000
"""A longer curve is thinned evenly; its last row and the last value of every metric always go along."""

ONLINE_WAIT_SECONDS = 10.0
"""How long a run waits for the server before it is written offline."""

FINISH_WAIT_SECONDS = 60.0

_TAG_LENGTH, _NAME_LENGTH = 64, 128

_EMPTY_BYTES = 64
"""A run file with nothing but its header is smaller."""

_ABOUT = (
    "exp_id",
    "phase",
    "stage",
    "group",
    "attempt",
    "command",
    "host",
    "gpu",
    "git_commit",
    "comparable",
    "changes",
)


@dataclass(frozen=True)
class TrackedRun:
    """Where a run was logged. All None when tracking is off."""

    url: str | None = None
    path: Path | None = None
    """The run's folder: of offline runs, of uploads that are unfinished, and of runs that the job logged itself."""
    problem: str | None = None
    """Why it is not online as wanted, or not there at all; one line."""


def write_run(
    view: ExperimentView,
    campaign: Campaign,
    rows: Sequence[MetricRow],
    folder: Path,
    run_id: str,
    mode: Literal["online", "offline"],
) -> TrackedRun:
    """Write one run from start to end.

    Args:
        view: the experiment; its parameters become the config.
        campaign: names project and entity, and adds tags.
        rows: the attempt's metrics over time.
        folder: offline runs are ``<folder>/wandb/offline-run-*``.
        run_id: of W&B; one that was used before is never used again.
        mode: whether the server is told.

    Raises:
        Exception: wandb could not start or write it.
    """
    import wandb

    about = {name: getattr(view, name) for name in _ABOUT}
    run = wandb.init(
        project=campaign.tracking.project or campaign.name,
        entity=campaign.tracking.entity,
        id=run_id,
        name=view.exp_id,
        group=one_line(view.method or view.group, _NAME_LENGTH),
        job_type=view.group,
        config=_plain({**view.params, "seed": view.seed, "campaign": about}),
        tags=_tags(view, campaign),
        notes=_notes(view),
        dir=folder,
        mode=mode,
        reinit="create_new",
        settings=quiet_settings(),
    )
    path = Path(run.dir).parent
    # Jobs count steps as they like, also fractions and backwards; W&B's own counter only goes up.
    run.define_metric("*", step_metric="step")
    for row in _thinned(rows):
        values = _loggable(row.values)
        if row.step is not None:
            values["step"] = row.step
        if row.time is not None and math.isfinite(row.time):
            values["_timestamp"] = row.time
        run.log(values)
    run.summary.update(_loggable(view.metrics))
    run.summary["objective"] = view.objective_value
    url = run.url if mode == "online" else None
    try:
        run.finish(exit_code=0 if view.state == ExperimentState.DONE else 1)
    except TimeoutError:
        return TrackedRun(url, path, f"W&B: upload unfinished; later: wandb sync {path}")
    if mode == "offline" and not _written(path):
        raise RuntimeError(f"wandb wrote an empty run to {path}")
    return TrackedRun(url, path if mode == "offline" else None)


def quiet_settings() -> Any:
    """Quiet, without prompts, and without looking at this process: the run happened in another one."""
    import wandb

    wanted = {
        "silent": True,
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "x_save_requirements": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "init_timeout": ONLINE_WAIT_SECONDS,
        "finish_timeout": FINISH_WAIT_SECONDS,
        "finish_timeout_raises": True,
    }
    # Some of these are younger than the oldest wandb allowed here.
    return wandb.Settings(**{k: v for k, v in wanted.items() if k in wandb.Settings.model_fields})


def _written(path: Path) -> bool:
    """Whether the run's file has content; wandb's service may write it a moment after the run was finished."""
    for _ in range(500):
        if any(p.stat().st_size > _EMPTY_BYTES for p in path.glob("run-*.wandb")):
            return True
        time.sleep(0.01)
    return False


def _thinned(rows: Sequence[MetricRow]) -> Sequence[MetricRow]:
    if len(rows) <= MAX_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]


def _loggable(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without names that are empty or that W&B keeps for itself."""
    return {clean(k): v for k, v in metrics.items() if k and not k.startswith("_")}


def _plain(value: Any) -> Any:
    """The same with valid text only: for one broken character wandb drops the whole run without a word."""
    if isinstance(value, dict):
        return {clean(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return clean(value) if isinstance(value, str) else value


def _tags(view: ExperimentView, campaign: Campaign) -> list[str]:
    given = [view.phase, view.stage, view.method, view.dataset, *campaign.publish.tags]
    if not view.comparable:
        given.append("not-comparable")
    return list(dict.fromkeys(tag for text in given if text and (tag := one_line(text, _TAG_LENGTH))))


def _notes(view: ExperimentView) -> str:
    changed = f"Changed by fixes: {'; '.join(view.changes)}" if view.changes else ""
    parts = (view.hypothesis or view.purpose, view.result_summary or view.reason, changed, view.notes)
    return clean("\n\n".join(part for part in parts if part))
