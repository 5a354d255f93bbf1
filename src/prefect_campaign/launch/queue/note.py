"""The note beside a submitted attempt (`submit.json`): when a scheduler was asked to take it, and what came of that.

It is on disk before the scheduler is asked, so that whoever comes after a crash knows that a job may be on its way.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prefect_campaign.model.records import AttemptSpec

NOTE_NAME = "submit.json"

_LARGEST = 65_536


@dataclass(frozen=True)
class Note:
    """Times are in seconds since the epoch, by the clock of the machine that the orchestrator is on."""

    token: str
    queue: str
    asked_at: float
    """When the scheduler was last asked to take it."""
    job_id: str = ""
    """Empty until its answer was read."""
    over_since: float | None = None
    """When the scheduler was first seen to have no such job, or an ended one, though there is no exit record."""
    over_steady: float | None = field(default=None, compare=False)
    """The same by a steady clock, for this process alone: what is decided by its age must not follow the wall clock."""
    asleep: bool = False
    """Whether it waited or was suspended when it was last seen, having run before."""
    awake_since: float | None = None
    """When it was seen to run again after that: it was silent until then for no fault of its own."""


def read_note(spec: AttemptSpec) -> Note | None:
    """The attempt's note; None if there is none. One that cannot be understood says only when it was written.

    Raises:
        OSError: there may be one, but it cannot be read.
    """
    path = _path(spec)
    try:
        with path.open("rb") as file:
            written_at = os.fstat(file.fileno()).st_mtime
            data = file.read(_LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(data)
        note = Note(
            token=str(found["token"]),
            queue=str(found["queue"]),
            asked_at=float(found["asked_at"]),
            job_id=str(found["job_id"]),
            over_since=_time(found, "over_since"),
            asleep=found.get("asleep") is True,
            awake_since=_time(found, "awake_since"),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        note = None
    if note is None or note.token != spec.token:
        return Note(spec.token, "", written_at)
    return note


def write_note(spec: AttemptSpec, note: Note) -> None:
    """Put it on disk, to stay there.

    Raises:
        OSError: it is not there.
    """
    path = _path(spec)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("w") as file:
            json.dump({name: value for name, value in asdict(note).items() if name != "over_steady"}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def remove_note(spec: AttemptSpec) -> None:
    """Nothing was handed over after all.

    Raises:
        OSError: it is still there.
    """
    _path(spec).unlink(missing_ok=True)


def _time(found: Mapping[str, object], name: str) -> float | None:
    value = found.get(name)
    return None if value is None else float(value)  # type: ignore[arg-type]


def _path(spec: AttemptSpec) -> Path:
    return Path(spec.run_dir) / NOTE_NAME
