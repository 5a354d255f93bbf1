"""The exit record (`status.json`) that a job leaves: how it is read, checked and, if damaged, set aside."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from prefect_campaign.launch.script import RECORD_NAME

_LARGEST = 65_536
"""Bytes; a real record has about 100."""


@dataclass(frozen=True)
class ExitRecord:
    """How a job says that it ended."""

    exit_code: int
    ended_at: float
    """Seconds since the epoch: when the record was written, by the clock of its file system."""
    stopped: bool = False
    """Whether the job was stopped from outside before it ended: its scheduler may run it again."""


def parse_record(data: bytes, token: str, ended_at: float = 0.0) -> ExitRecord:
    """What a record says.

    Args:
        data: content of `status.json`.
        token: the attempt that must have written it.
        ended_at: when it was written.

    Raises:
        ValueError: it is not a whole record of this attempt; the message says what is wrong.
    """
    if len(data) > _LARGEST:
        raise ValueError(f"is larger than {_LARGEST} bytes")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON" if data else "is empty") from None
    if not isinstance(record, dict) or record.get("state") != "exited":
        raise ValueError('has no "state": "exited"')
    code = record.get("exit_code")
    if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 255:
        raise ValueError(f"has no exit code from 0 to 255 but {code!r:.40}")
    if record.get("token") != token:
        raise ValueError(f"belongs to {record.get('token')!r:.80}, not to {token!r}")
    return ExitRecord(code, ended_at, stopped=record.get("stopped") is True)


def has_record(run_dir: str) -> bool:
    """Whether there is one, whatever is in it."""
    return os.path.lexists(os.path.join(run_dir, RECORD_NAME))


def take_record(run_dir: Path, token: str) -> tuple[ExitRecord | None, str]:
    """Read the record of an attempt; set it aside as ``status.json.damaged-<n>`` if it is not a good one.

    Returns:
        The record, or None; and a line for people if a damaged one was set aside.

    Raises:
        OSError: there may be a record, but it cannot be read.
    """
    path = run_dir / RECORD_NAME
    try:
        # O_NONBLOCK: a named pipe in its place must not stop us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, ""
    try:
        ended_at = os.fstat(fd).st_mtime
        data = os.read(fd, _LARGEST + 1)
    except IsADirectoryError:
        data = b""
    finally:
        os.close(fd)
    try:
        return parse_record(data, token, ended_at), ""
    except ValueError as problem:
        aside = _set_aside(path)
        return None, f"{path} {problem}; set aside as {aside.name}"


def _set_aside(path: Path) -> Path:
    n = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{n}")):
        n += 1
    path.rename(aside)
    return aside
