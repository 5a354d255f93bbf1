"""Each finished experiment as a Weights & Biases run: online where that works, else a folder to sync later."""

import json
import math
import netrc
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.ids import digest
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.files import write_text
from prefect_campaign.results.text import one_line
from prefect_campaign.results.wandb_run import TrackedRun, quiet_settings, write_run

OFFLINE_FOR_SECONDS = 600.0
"""After a failed connection the following runs go offline at once, so that a batch never waits for each."""

_lock = threading.Lock()
_offline_until = -math.inf


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
        shared = wandb.setup(quiet_settings()).settings
        problem = None
        if not offline and clock() < _offline_until:
            offline, problem = True, "W&B could not be reached a short while ago; written offline"
        if not offline and not _has_key(str(shared.base_url)):
            offline = True
        if not offline:
            try:
                return write_run(view, campaign, rows, folder, run_id, "online")
            except Exception as error:  # wandb raises many kinds; none of them is about the experiment
                _offline_until = clock() + OFFLINE_FOR_SECONDS
                problem = f"W&B online failed ({_line(error)}); written offline"
                _remove(folder, run_id)
                run_id = f"{run_id}-offline"  # wandb's service keeps the failed run's id for itself
        try:
            tracked = write_run(view, campaign, rows, folder, run_id, "offline")
        except Exception:
            # Offline writing needs nobody but wandb's own service; one that died is replaced, once.
            with suppress(Exception):
                wandb.teardown()
            _remove(folder, run_id)
            tracked = write_run(view, campaign, rows, folder, run_id, "offline")
        return TrackedRun(path=tracked.path, problem=problem)
    finally:
        # W&B leaves its service's address in the environment. A job started from here would report to this
        # process instead of by itself, and lose its runs when this process ends.
        if service is None:
            os.environ.pop("WANDB_SERVICE", None)


def _own_run(view: ExperimentView) -> Path | None:
    """The latest run that the job itself logged: jobs find their run dir as ``WANDB_DIR``."""
    found = Path(view.run_dir).glob("wandb/*run-*") if view.run_dir else ()
    return max(
        (p for p in found if p.is_dir() and p.name != "latest-run"),
        default=None,
        key=lambda p: p.name.removeprefix("offline-"),
    )


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


def _remove(folder: Path, run_id: str) -> None:
    for partial in (folder / "wandb").glob(f"*run-*-{run_id}*"):
        shutil.rmtree(partial)


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
