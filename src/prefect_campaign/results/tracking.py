"""Each finished experiment as a Weights & Biases run: online where that works, else a folder to sync later."""

import json
import math
import netrc
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.ids import digest
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.results.files import write_text
from prefect_campaign.results.text import clean, one_line

MAX_ROWS = 2_000
"""A longer curve is thinned evenly; its last row and the last value of every metric always go along."""

ONLINE_WAIT_SECONDS = 10.0
"""How long a run waits for the server before it is written offline."""

FINISH_WAIT_SECONDS = 60.0

OFFLINE_FOR_SECONDS = 600.0
"""After a failed connection the following runs go offline at once, so that a batch never waits for each."""

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

_lock = threading.Lock()
_offline_until = -math.inf


@dataclass(frozen=True)
class TrackedRun:
    """Where a run was logged. All None when tracking is off."""

    url: str | None = None
    path: Path | None = None
    """The run's folder: of offline runs, of uploads that are unfinished, and of runs that the job logged itself."""
    problem: str | None = None
    """Why it is not online as wanted, or not there at all; one line."""


def log_run(
    view: ExperimentView,
    campaign: Campaign,
    rows: Sequence[MetricRow],
    folder: Path,
    *,
    clock: Clock = system_clock,
) -> TrackedRun:
    """Log one attempt of an experiment; called again for the same attempt it only looks up the first result.

    A job that logged to W&B itself is left at that. Never asks for a key, never prints, and never raises for
    what W&B or the network does. May be called from any thread; runs are written one at a time. The first call
    in a process takes seconds longer.

    Args:
        view: the experiment; its parameters become the config, phase, stage, method and dataset the tags.
        campaign: says where to (`tracking`).
        rows: the attempt's metrics over time.
        folder: offline runs are ``<folder>/wandb/offline-run-*``, for ``wandb sync``.
        clock: decides when a server that could not be reached is tried again.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if campaign.tracking.wandb == "off" or mode == "disabled":
        return TrackedRun()
    own = _own_run(view)
    if own is not None:
        return TrackedRun(path=own)
    # created_at keeps apart the rounds of a campaign, and campaigns of one name in a shared project.
    run_id = digest([campaign.name, view.exp_id, view.attempt, view.created_at], 16)
    marker = folder / "tracked" / f"{run_id}.json"
    with _lock:
        known = _read_marker(marker)
        if known is not None:
            return known
        offline = campaign.tracking.wandb == "offline" or mode in ("offline", "dryrun")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove(folder, run_id)  # there is one if a crash came between this attempt's run and its marker
            tracked = _log(view, campaign, rows, folder, run_id, offline=offline, clock=clock)
            _write_marker(marker, tracked)
        except Exception as error:  # whatever goes wrong in a tracker, the campaign goes on
            return TrackedRun(problem=_line(error))
    return tracked


def _log(
    view: ExperimentView,
    campaign: Campaign,
    rows: Sequence[MetricRow],
    folder: Path,
    run_id: str,
    *,
    offline: bool,
    clock: Clock,
) -> TrackedRun:
    global _offline_until

    import wandb

    service = os.environ.get("WANDB_SERVICE")
    try:
        # First, because what is logged before a run begins follows the settings given here.
        shared = wandb.setup(_settings()).settings
        problem = None
        if not offline and clock() < _offline_until:
            offline, problem = True, "W&B could not be reached a short while ago; written offline"
        if not offline and not _has_key(str(shared.base_url)):
            offline = True
        if not offline:
            try:
                return _one_run(view, campaign, rows, folder, run_id, "online")
            except Exception as error:  # wandb raises many kinds; none of them is about the experiment
                _offline_until = clock() + OFFLINE_FOR_SECONDS
                problem = f"W&B online failed ({_line(error)}); written offline"
                _remove(folder, run_id)
                run_id = f"{run_id}-offline"  # wandb's service keeps the failed run's id for itself
        try:
            tracked = _one_run(view, campaign, rows, folder, run_id, "offline")
        except Exception:
            # Offline writing needs nobody but wandb's own service; one that died is replaced, once.
            with suppress(Exception):
                wandb.teardown()
            _remove(folder, run_id)
            tracked = _one_run(view, campaign, rows, folder, run_id, "offline")
        return TrackedRun(path=tracked.path, problem=problem)
    finally:
        # W&B leaves its service's address in the environment. A job started from here would report to this
        # process instead of by itself, and lose its runs when this process ends.
        if service is None:
            os.environ.pop("WANDB_SERVICE", None)


def _one_run(
    view: ExperimentView,
    campaign: Campaign,
    rows: Sequence[MetricRow],
    folder: Path,
    run_id: str,
    mode: Literal["online", "offline"],
) -> TrackedRun:
    """Write one run from start to end.

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
        settings=_settings(),
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


def _written(path: Path) -> bool:
    """Whether the run's file has content; wandb's service may write it a moment after the run was finished."""
    for _ in range(500):
        if any(p.stat().st_size > _EMPTY_BYTES for p in path.glob("run-*.wandb")):
            return True
        time.sleep(0.01)
    return False


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


def _own_run(view: ExperimentView) -> Path | None:
    """The latest run that the job itself logged: jobs find their run dir as ``WANDB_DIR``."""
    found = Path(view.run_dir).glob("wandb/*run-*") if view.run_dir else ()
    return max(
        (p for p in found if p.is_dir() and p.name != "latest-run"),
        default=None,
        key=lambda p: p.name.removeprefix("offline-"),
    )


def _settings() -> Any:
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


def _has_key(base_url: str) -> bool:
    """Whether there is a key for the server, by environment or netrc: without one wandb would ask for it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = os.environ.get("NETRC") or Path.home() / ".netrc"
    hosts = {urlsplit(base_url).netloc}
    if "WANDB_BASE_URL" not in os.environ:
        hosts.add("api.wandb.ai")  # keys of the public server stay under its first name
    try:
        return any(host in netrc.netrc(path).hosts for host in hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _tags(view: ExperimentView, campaign: Campaign) -> list[str]:
    given = [view.phase, view.stage, view.method, view.dataset, *campaign.publish.tags]
    if not view.comparable:
        given.append("not-comparable")
    return list(dict.fromkeys(tag for text in given if text and (tag := one_line(text, _TAG_LENGTH))))


def _notes(view: ExperimentView) -> str:
    changed = f"Changed by fixes: {'; '.join(view.changes)}" if view.changes else ""
    parts = (view.hypothesis or view.purpose, view.result_summary or view.reason, changed, view.notes)
    return clean("\n\n".join(part for part in parts if part))


def _remove(folder: Path, run_id: str) -> None:
    for partial in (folder / "wandb").glob(f"*run-*-{run_id}*"):
        shutil.rmtree(partial)


def _thinned(rows: Sequence[MetricRow]) -> Sequence[MetricRow]:
    if len(rows) <= MAX_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]


def _read_marker(marker: Path) -> TrackedRun | None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        return TrackedRun(found["url"], Path(found["path"]) if found["path"] else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # also a damaged one: the run is then written again under the same id


def _write_marker(marker: Path, tracked: TrackedRun) -> None:
    write_text(marker, json.dumps({"url": tracked.url, "path": str(tracked.path) if tracked.path else None}))


def _line(error: BaseException) -> str:
    return one_line(str(error).split("\n", 1)[0] or type(error).__name__, 300)
