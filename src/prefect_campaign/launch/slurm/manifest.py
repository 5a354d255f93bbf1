"""Manifests: what was, or may have been, handed to a scheduler under which name; durable before it is handed over.

One file for each submission, in a folder beside the run dirs: the job's name, the moment, and the token of each task
in order. Another file beside it is written once the scheduler's id is known, or that nothing was taken.
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefect_campaign.model.clock import Clock, steady_clock
from prefect_campaign.model.errors import Transient

FOLDER = ".slurm"
_SUFFIX = ".json"
_ANSWER = ".answer"
_NONE = "none"
_COARSE = 2_000_000_000
"""Nanoseconds."""


@dataclass(frozen=True)
class Manifest:
    """One submission."""

    name: str
    """Of the job, or of the array."""
    key: str
    """Of the file: the name, or more where a name is used again."""
    mark: str
    """In the job's comment."""
    submitted_at: float
    """Seconds since the epoch, just before the scheduler was called."""
    tokens: tuple[str, ...]
    array: bool
    options: tuple[str, ...] = ()
    job_id: str | None = None
    """What the scheduler answered; None if that is not known."""
    refused: bool = False
    """Whether it is known that nothing was taken."""


@dataclass(frozen=True)
class Entry:
    """Where a token was submitted: the manifest, and which task of it."""

    manifest: Manifest
    index: int | None


class Submissions:
    """What is on record of a folder of run dirs."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}
        self._read: dict[str, str | None] = {}
        """File -> what its answer was."""
        self._stamp = -1
        self._turn = threading.Lock()

    def of(self, token: str, *, refused: bool = False) -> list[Entry]:
        """Submissions of a token, oldest first.

        Args:
            token: of the attempt.
            refused: also those that are believed to have come to nothing.
        """
        return [entry for entry in self._entries.get(token, []) if refused or not entry.manifest.refused]

    def read(self, folder: Path) -> None:
        """Take in what is new; without a folder there is nothing.

        Raises:
            OSError: it cannot be read.
            ValueError: a manifest is damaged.
        """
        with self._turn:
            try:
                stamp = folder.stat().st_mtime_ns
                if stamp != self._stamp:
                    self._take_in(folder)
            except FileNotFoundError:
                return
            # A file system's clock is coarse: what is written within the same moment would never be seen.
            self._stamp = stamp if time.time_ns() - stamp > _COARSE else -1

    def _take_in(self, folder: Path) -> None:
        names = os.listdir(folder)
        answers = {name for name in names if name.endswith(_ANSWER)}
        for name in sorted(names):
            before = self._read.get(name)
            if not name.endswith(_SUFFIX) or (before and before.isdecimal()):
                continue  # an id is final
            key = name.removesuffix(_SUFFIX)
            answer = (folder / f"{key}{_ANSWER}").read_text("ascii", "replace") if key + _ANSWER in answers else None
            if name in self._read and before == answer:
                continue
            self._note(_read(folder / name, key, answer))
            self._read[name] = answer

    def _note(self, manifest: Manifest) -> None:
        for index, token in enumerate(manifest.tokens):
            others = [entry for entry in self._entries.get(token, []) if entry.manifest.key != manifest.key]
            others.append(Entry(manifest, index if manifest.array else None))
            # A new list: somebody else may be looking at the old one.
            self._entries[token] = sorted(others, key=lambda entry: entry.manifest.submitted_at)


class Manifests:
    """The manifests of a cluster, by the folder of run dirs that they belong to.

    Args:
        cluster: its name; several clusters may have manifests in one folder.
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, cluster: str, steady: Clock = steady_clock) -> None:
        self._cluster = cluster
        self._steady = steady
        self._open: dict[str, float] = {}
        """Key of a manifest that was written here and not answered yet -> when, by the steady clock."""
        self._folders: dict[str, Submissions] = {}

    def folder(self, runs: str) -> Path:
        """Where those of a folder of run dirs are."""
        return Path(runs) / FOLDER / self._cluster

    async def read(self, runs: str) -> Submissions:
        """What is on record now; read beside the event loop, for a network file system may be slow.

        Args:
            runs: folder of run dirs; see `runs_of`.

        Raises:
            Transient: the folder cannot be read now.
        """
        folder = self.folder(runs)
        known = self._folders.setdefault(runs, Submissions())
        try:
            await asyncio.to_thread(known.read, folder)
        except OSError as error:
            raise Transient(f"{folder}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise Transient(f"{error}; it says which jobs were submitted: restore it, or move it away") from error
        return known

    def write(self, runs: str, manifest: Manifest) -> None:
        """Put a manifest on disk, to stay there whatever happens.

        Raises:
            OSError: it is not there.
        """
        folder = self.folder(runs)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": manifest.name,
            "mark": manifest.mark,
            "submitted_at": manifest.submitted_at,
            "array": manifest.array,
            "tokens": list(manifest.tokens),
            "options": list(manifest.options),
        }
        durable(folder / f"{manifest.key}{_SUFFIX}", json.dumps(content).encode())
        _sync(folder)
        self._open[manifest.key] = self._steady()

    def age(self, manifest: Manifest, now: float) -> float:
        """Seconds since a manifest was written that has no answer yet.

        Args:
            manifest: which.
            now: seconds since the epoch; counts only if another process wrote it, for the wall clock may have jumped.
        """
        written = self._open.get(manifest.key)
        return now - manifest.submitted_at if written is None else self._steady() - written

    async def answered(self, runs: str, key: str, job_id: str | None) -> None:
        """Note the scheduler's id, or (None) that it took nothing. Should this be lost, the job is found by name."""
        with suppress(OSError):
            await asyncio.to_thread(durable, self.folder(runs) / f"{key}{_ANSWER}", (job_id or _NONE).encode())
            self._open.pop(key, None)


def durable(path: Path, content: bytes) -> None:
    """Write a file whole and synced, in place of what was there.

    Raises:
        OSError: it could not be written; what was there is still there.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def array_name(tokens: Sequence[str], runs: str, at: float) -> str:
    """A name that no other array has: ``pc-<campaign>-x<digest>``.

    Args:
        tokens: of its tasks.
        runs: folder of their run dirs.
        at: when it is submitted.
    """
    stem = _shared_start(tokens)[:40].rstrip("-._") or "pc"
    digest = hashlib.sha256("\n".join([runs, repr(at), *tokens]).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{stem}-x{digest}"


def _shared_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    return first[: next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def runs_of(run_dir: str) -> str:
    """The folder of all run dirs: two levels up."""
    return os.path.dirname(os.path.dirname(run_dir.rstrip("/")))


def mark_of(runs: str) -> str:
    """What tells jobs of this folder of run dirs from others that have the same name."""
    return "pc:" + hashlib.sha256(runs.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read(path: Path, key: str, answer: str | None) -> Manifest:
    try:
        found = json.loads(path.read_bytes())
        return Manifest(
            name=found["name"],
            key=key,
            mark=found["mark"],
            submitted_at=float(found["submitted_at"]),
            tokens=tuple(found["tokens"]),
            array=bool(found["array"]),
            options=tuple(found.get("options", ())),
            job_id=answer if answer and answer.isdecimal() else None,
            refused=answer == _NONE,
        )
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({type(error).__name__})") from error


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
