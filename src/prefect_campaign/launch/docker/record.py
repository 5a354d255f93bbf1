"""What stays of a container in the attempt's run dir: `container.json`, how it ended, and `container.log`.

A container is removed only once that is on disk.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect_campaign.launch.docker.engine import DockerEngine, is_alive
from prefect_campaign.launch.docker.settings import DOCKER
from prefect_campaign.launch.script import CONTAINER_NAME, SCRIPT_NAME
from prefect_campaign.model.records import Handle
from prefect_campaign.model.text import printable

CONTAINER_LOG = "container.log"

_LOG_BYTES = 1 << 20
_LARGEST = 1 << 20
_LONGEST = 500
_NEVER = "0001-01-01"


@dataclass(frozen=True)
class End:
    """How a container ended, in the engine's own words."""

    status: str
    """Such as ``exited`` or ``dead``; ``created`` if it never ran."""
    exit_code: int
    oom_killed: bool
    error: str = ""
    """The engine's own, or else the last that the container said; empty as a rule, for the job has logs of its own."""
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None

    @property
    def state(self) -> str:
        """For people and for a diagnosis: ``exited 137, OOMKilled``."""
        return f"{self.status} {self.exit_code}" + (", OOMKilled" if self.oom_killed else "")


@dataclass(frozen=True)
class ContainerRecord:
    """What a run dir tells of its container."""

    handle: Handle | None = None
    end: End | None = None


def end_of(state: Mapping[str, Any]) -> End:
    """How it ended, by the state in its inspection."""
    return End(
        status=str(state.get("Status") or "?"),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or "")[:_LONGEST],
        started_at=seconds_of(state.get("StartedAt")),
        ended_at=seconds_of(state.get("FinishedAt")),
    )


def seconds_of(time: Any) -> float | None:
    """Seconds since the epoch of a time as the engine writes it; None for its "never"."""
    if not isinstance(time, str) or not time or time.startswith(_NEVER):
        return None
    try:
        # Nanoseconds: more than Python takes.
        head, _, rest = time.partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        zone = rest[len(digits) :] if rest else ""
        text = f"{head}.{digits[:6]}{zone}" if digits else time
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def write_begin(run_dir: Path, handle: Handle, limits: Mapping[str, Any], warnings: list[str]) -> None:
    """Note which container runs this attempt, before it is started.

    Raises:
        OSError: it cannot be written.
    """
    told = {"handle": asdict(handle), "limits": dict(limits), "warnings": warnings, "end": None}
    _write(run_dir / CONTAINER_NAME, json.dumps(told, indent=1).encode())


def read_container(run_dir: Path) -> ContainerRecord:
    """What the run dir tells; of a file that is not there, or damaged, nothing."""
    told = _read(run_dir)
    handle, end = told.get("handle"), told.get("end")
    try:
        return ContainerRecord(
            Handle(**handle) if isinstance(handle, dict) and handle.get("launcher") == DOCKER else None,
            End(**end) if isinstance(end, dict) else None,
        )
    except TypeError:
        return ContainerRecord()


def finish(engine: DockerEngine, container: str, run_dir: Path) -> End | None:
    """Save how a container ended and what it said, then remove it.

    Returns:
        How it ended; None if it is not over, or not there.

    Raises:
        CampaignError: the engine is not there; nothing is lost.
        OSError: nothing can be saved; the container stays.
    """
    seen = engine.inspect(container)
    if seen is None or is_alive(seen["State"]) or seen["State"].get("Status") == "removing":
        return None
    end = end_of(seen["State"])
    if (run_dir / SCRIPT_NAME).exists():  # else nobody wants to know any more
        said = engine.logs(container, _LOG_BYTES)
        if said:
            _write(run_dir / CONTAINER_LOG, said)
            last = said.rstrip().rpartition(b"\n")[2].decode("utf-8", "replace")
            end = replace(end, error=end.error or printable(last)[:_LONGEST])
        _write(run_dir / CONTAINER_NAME, json.dumps({**_read(run_dir), "end": asdict(end)}, indent=1).encode())
    engine.remove(container, force=end.status == "created")
    return end


def _read(run_dir: Path) -> dict[str, Any]:
    try:
        with open(run_dir / CONTAINER_NAME, "rb") as file:
            told = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on disk."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
