"""Folders of checkpoints: what is in one, and putting a new one in the place of an old one."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from prefect_campaign.model.records import AttemptSpec

NEW_NAME = ".checkpoints.new"
"""Beside the folder: what was copied so far. It gets the folder's name once it is whole."""
BEFORE = ".before"
"""What was in the place of a copy is kept under the folder's name with this and, from the second one on, a number."""
PARTIAL = ".partial"
"""Folder for the file at which a copy broke off."""


@dataclass(frozen=True)
class Files:
    """What is in a folder; two folders with the same in them are equal."""

    count: int = 0
    size: int = 0
    """Bytes."""
    digest: str = ""
    """SHA-256 of all names, sizes and times of change."""

    def __bool__(self) -> bool:
        return self.count > 0


class Checkpoints(Protocol):
    """The checkpoints of a launcher's attempts, where these are not on this machine."""

    def elsewhere(self, spec: AttemptSpec) -> bool:
        """Whether they are other files than those under the same path here."""
        ...

    async def files(self, spec: AttemptSpec) -> Files:
        """What is there.

        Raises:
            CampaignError: nobody can say now.
        """
        ...

    async def fetch(self, spec: AttemptSpec) -> None:
        """Bring them here, in the place of those that are here, which are kept beside.

        Raises:
            CampaignError: they did not all come; what is here is as it was.
        """
        ...

    async def send(self, spec: AttemptSpec) -> None:
        """The same the other way round."""
        ...


@runtime_checkable
class HasCheckpoints(Protocol):
    """A launcher whose attempts may run on another machine."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """Those there; None: its attempts have theirs here."""
        ...


def files_here(folder: Path) -> Files:
    """What is in a folder of this machine; nothing if there is none.

    Raises:
        OSError: it cannot be read.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    lines, size = [], 0
    for base, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name != PARTIAL]
        for name in names:
            path = os.path.join(base, name)
            found = os.lstat(path)
            if os.path.isfile(path) and not os.path.islink(path):
                shown = os.fsencode(os.path.relpath(path, folder))
                lines.append(b"%d %d ./%b" % (found.st_size, found.st_mtime_ns // 10**9, shown))
                size += found.st_size
    # By lines, as sort does there: a name may have a newline in it.
    text = b"\n".join(sorted(b"\n".join(lines).split(b"\n")))
    return Files(len(lines), size, hashlib.sha256(text).hexdigest()) if lines else Files()


def put_in_place(folder: Path) -> None:
    """Give what was copied the name of the folder, and keep beside it what was there.

    Raises:
        OSError: it could not be done.
    """
    new = folder.with_name(NEW_NAME)
    new.stat()
    with suppress(OSError):
        folder.rmdir()  # empty, as it was made for an attempt
    if os.path.lexists(folder):
        aside, n = folder.with_name(folder.name + BEFORE), 1
        while os.path.lexists(aside):
            n += 1
            aside = folder.with_name(f"{folder.name}{BEFORE}-{n}")
        folder.rename(aside)
    new.rename(folder)
