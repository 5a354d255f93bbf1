"""Reading a growing file from a cursor, in bounded pieces that end at line ends."""

import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_READ = 8 * 1024 * 1024
"""Bytes read from one file in one call."""

MAX_LINE = 1024 * 1024
"""Bytes; a longer line is skipped and counted as bad. Must be less than `MAX_READ`."""

_MARK = 256
"""Bytes before the cursor whose checksum tells whether the file is still the one that was read."""

FileCursor = dict[str, Any]
"""JSON-able. `offset`: bytes read; `mark`: CRC-32 of the last bytes before it; `skipping`: inside a line that is
too long; `bad`: lines that could not be used; `error`: why the file could not be read, if so."""


@dataclass(frozen=True)
class Piece:
    """What is new in a file."""

    data: bytes
    offset: int
    """Where `data` begins; 0 although the cursor was further means that the file was replaced or cut."""
    at_end: bool
    """Whether nothing follows at this moment."""


def read_piece(path: Path, cursor: FileCursor, limit: int) -> Piece | None:
    """Up to `limit` new bytes.

    A file that is shorter than the cursor, or whose bytes before the cursor changed, was truncated or rotated:
    it is read from its start. Another inode with the same content (a synced copy) is read on.

    Returns:
        None if there is no file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not stop us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(f"{path} is not a regular file")
        offset = int(cursor.get("offset", 0))
        if offset and (state.st_size < offset or _mark_at(fd, offset) != cursor.get("mark")):
            offset = 0
        data = os.pread(fd, limit, offset)
    finally:
        os.close(fd)
    return Piece(data, offset, at_end=offset + len(data) >= state.st_size)


def moved(cursor: FileCursor, piece: Piece, used: int) -> FileCursor:
    """The cursor after `used` bytes of the piece, its other entries kept."""
    if not used:
        return {**cursor, "offset": piece.offset} if piece.offset else {**cursor, "offset": 0, "mark": 0}
    tail = piece.data[max(0, used - _MARK) : used]
    size = min(_MARK, piece.offset + used)
    mark = _join_mark(cursor, piece, tail, size)
    return {**cursor, "offset": piece.offset + used, "mark": mark}
