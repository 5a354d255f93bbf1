"""Reading a growing file from a cursor, in bounded pieces and whole lines."""

import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_READ = 8 * 1024 * 1024
"""Bytes read from one file in one call."""

MAX_LINE = 1024 * 1024
"""Bytes, less than `MAX_READ`; a longer line is skipped and counted as bad."""

_MARK = 256
"""Bytes before the cursor whose checksum tells whether the file is still the one that was read."""

FileCursor = dict[str, Any]
"""JSON-able. `offset`: bytes read; `mark`: CRC-32 of the last bytes before it; `skipping`: inside a line that is
too long; `bad`: number of lines that could not be used; `error`: why the file could not be read, if so."""


@dataclass(frozen=True)
class Piece:
    """What is new in a file, and how the cursor goes on from there."""

    cursor: FileCursor
    """At the start of `data`; empty if the file is read from its start (again)."""
    before: bytes
    data: bytes
    at_end: bool
    """Whether nothing followed at that moment."""

    def after(self, used: int) -> FileCursor:
        """The cursor once `used` bytes of `data` are dealt with."""
        if not used:
            return self.cursor
        mark = zlib.crc32((self.before + self.data[max(0, used - _MARK) : used])[-_MARK:])
        return {**self.cursor, "offset": self.cursor.get("offset", 0) + used, "mark": mark}


def read_piece(path: Path, cursor: FileCursor, limit: int) -> Piece | None:
    """Up to `limit` new bytes.

    A file that ends before the cursor, or whose bytes just before the cursor are others, was truncated or
    rotated: it is read from its start. Another inode with the same content (a synced copy) is read on.

    Returns:
        None if there is no file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    try:
        # O_NONBLOCK: a named pipe in its place must not stop us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        cursor = {k: v for k, v in cursor.items() if k != "error"}
        offset = int(cursor.get("offset", 0))
        room = min(offset, _MARK)
        both = os.pread(fd, room + limit, offset - room)
        before, data = both[:room], both[room:]
        if offset and zlib.crc32(before) != cursor.get("mark"):
            cursor, before, data = {}, b"", os.pread(fd, limit, 0)
    finally:
        os.close(fd)
    return Piece(cursor, before, data, at_end=len(data) < limit)


def read_lines(path: Path, cursor: FileCursor, *, final: bool = False) -> tuple[list[bytes], FileCursor, bool]:
    """The whole lines that are new, without their newlines.

    Args:
        path: the file.
        cursor: where to go on.
        final: nothing will be written any more, so that a last line without a newline counts as well.

    Returns:
        The lines (those over `MAX_LINE` left out and counted in ``bad``), the next cursor, and whether the end
        of the file was reached. A file that cannot be read has no lines; ``error`` in the cursor says why.
    """
    try:
        piece = read_piece(path, cursor, MAX_READ)
    except OSError as error:
        return [], {**cursor, "error": str(error)}, True
    if piece is None:
        return [], cursor, True
    *lines, rest = piece.data.split(b"\n")
    used = len(piece.data) - len(rest)
    skipping, bad = bool(piece.cursor.get("skipping")), 0
    if skipping and lines:
        del lines[0]
        skipping = False
    if skipping:
        used = len(piece.data)
    elif len(rest) > MAX_LINE:
        used, skipping, bad = len(piece.data), True, 1
    elif final and piece.at_end and rest:
        used = len(piece.data)
        lines.append(rest)
    kept = [line for line in lines if len(line) <= MAX_LINE]
    return kept, _with(piece.after(used), skipping, bad + len(lines) - len(kept)), piece.at_end


def _with(cursor: FileCursor, skipping: bool, bad: int) -> FileCursor:
    cursor = {k: v for k, v in cursor.items() if k != "skipping"}
    if skipping:
        cursor["skipping"] = True
    if bad:
        cursor["bad"] = cursor.get("bad", 0) + bad
    return cursor
