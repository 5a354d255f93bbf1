"""Seeing many containers at once, and what may be said of them when."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefect_campaign.launch.docker.engine import DockerEngine, is_alive
from prefect_campaign.launch.docker.record import End, end_of, finish, read_container
from prefect_campaign.launch.docker.secrets import drop_secrets, secrets_folder
from prefect_campaign.launch.docker.settings import DOCKER
from prefect_campaign.launch.job_files import signal_of
from prefect_campaign.launch.record import ExitRecord, take_record
from prefect_campaign.launch.script import CLAIM_NAME, DUPLICATE_EXIT
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

_ENDING_SECONDS = 5.0
"""How long a container may take to go down after its job has left its record."""

_MEANS: dict[str, Literal["running", "unreachable"]] = {
    "running": "running",
    "paused": "running",
    "restarting": "running",
    "removing": "unreachable",
}


@dataclass
class _Look:
    """One job, as it is looked at."""

    spec: AttemptSpec
    handle: Handle
    notes: list[str] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return Path(self.spec.run_dir)

    def record(self) -> ExitRecord | None:
        """Its own exit record; a damaged one is set aside and noted."""
        record, problem = take_record(self.run_dir, self.spec.token)
        if problem:
            self.notes.append(problem)
        return record

    def seen(self, status: str, *details: str, **more: Any) -> Observation:
        started = None
        with suppress(OSError):
            started = (self.run_dir / CLAIM_NAME).stat().st_mtime
        detail = "; ".join((*self.notes, *filter(None, details)))
        return Observation(status, detail=detail, **{"started_at": started, **more})  # type: ignore[arg-type]

    def exited(self, record: ExitRecord, end: End | None) -> Observation:
        return self.seen(
            "exited",
            exit_code=record.exit_code,
            signal=signal_of(record.exit_code),
            ended_at=record.ended_at,
            oom_killed=(end.oom_killed and record.exit_code != 0) if end else None,
        )

    def ended(self, end: End) -> Observation:
        """The container is over, and the job left no record."""
        if end.status == "created":
            return self.seen("gone", "its container was never started")
        if end.exit_code == DUPLICATE_EXIT:
            return self.seen("unreachable", f"its run dir {self.run_dir} is claimed by another job")
        return self.seen(
            "gone",
            f"its container ended without an exit record: {end.state}",
            end.error,
            scheduler_state=end.state,
            signal=signal_of(end.exit_code),
            oom_killed=end.oom_killed,
            started_at=end.started_at,
            ended_at=end.ended_at,
        )


def observe_containers(
    engine: DockerEngine, host: str, handles: Sequence[tuple[AttemptSpec, Handle]]
) -> dict[str, Observation]:
    """Token -> what is seen of that job, by one request for all containers, and some more for each that ended.

    What is over is saved to its run dir and removed from the engine.

    Args:
        engine: where they run.
        host: name of this machine.
        handles: the jobs.
    """
    listed: dict[str, dict[str, Any]] = {}
    trouble = engine_id = ""
    try:
        engine_id = engine.engine().id
        listed = {one["Id"]: one for one in engine.ours()} if handles else {}
    except CampaignError as error:
        trouble = str(error)
    found = {}
    for spec, handle in handles:
        look = _Look(spec, handle)
        try:
            if trouble:
                found[spec.token] = _without_engine(look, trouble)
            elif handle.launcher != DOCKER or handle.host != host:
                found[spec.token] = _record_alone(look, f"runs by launcher {handle.launcher} on host {handle.host}")
            elif handle.detail.get("engine", engine_id) != engine_id:
                found[spec.token] = _record_alone(look, f"runs on another Docker engine than the one at {engine.where}")
            else:
                found[spec.token] = _observe(look, engine, listed.get(handle.job_id))
        except CampaignError as error:
            found[spec.token] = _without_engine(look, str(error))
        except OSError as error:
            found[spec.token] = look.seen("unreachable", f"{look.run_dir}: {error}")
    return found


def _without_engine(look: _Look, trouble: str) -> Observation:
    """What its run dir alone tells."""
    try:
        return _record_alone(look, trouble)
    except OSError as error:
        return look.seen("unreachable", trouble, f"{look.run_dir}: {error}")


def _record_alone(look: _Look, otherwise: str) -> Observation:
    record, end = look.record(), read_container(look.run_dir).end
    if record is not None:
        return look.exited(record, end)
    return look.ended(end) if end is not None else look.seen("unreachable", otherwise)


def _observe(look: _Look, engine: DockerEngine, listed: dict[str, Any] | None) -> Observation:
    container = look.handle.job_id
    record = look.record()
    if listed is None:
        # Not in the list: asked for by its id before anything is made of that.
        seen = engine.inspect(container) if container else None
        listed = {"State": seen["State"].get("Status")} if seen else None
    if listed is None:
        record = record or look.record()
        end = read_container(look.run_dir).end
        if record is not None:
            return look.exited(record, end)
        if end is not None:
            return look.ended(end)
        name = look.handle.detail.get("name") or look.spec.token
        return look.seen("gone", f"no container {name} on the engine and no exit record in {look.run_dir}")
    if record is not None:
        # Its GPU is free, and what the engine says of its memory final, only when the container is down.
        if not engine.wait(container, _ENDING_SECONDS):
            return look.seen("running", "the job has left its exit record, but its container does not end")
        return look.exited(record, _finished(look, engine))
    status = str(listed.get("State") or "?")
    if status in _MEANS:
        return look.seen(_MEANS[status], "" if status == "running" else f"its container is {status}")
    end = _finished(look, engine)
    record = look.record()
    if record is not None:
        return look.exited(record, end)
    return look.ended(end) if end is not None else look.seen("unreachable", f"its container is {status}")


def _finished(look: _Look, engine: DockerEngine) -> End | None:
    """How its container ended, which is saved and then removed; if it cannot be saved now, it stays."""
    drop_secrets(secrets_folder(look.spec.token, look.spec.run_dir))
    try:
        end = finish(engine, look.handle.job_id, look.run_dir)
    except (CampaignError, OSError) as error:
        look.notes.append(f"its container stays for now: {error}")
        seen = engine.inspect(look.handle.job_id)
        end = end_of(seen["State"]) if seen and not is_alive(seen["State"]) else None
    return end or read_container(look.run_dir).end
