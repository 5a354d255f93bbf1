"""Log text for people and rules: bounded, decoded, with redrawn progress lines reduced to their last state."""

import codecs
import os
import stat
from pathlib import Path

from prefect_campaign.watch.files import FileCursor, read_piece


def tail(path: Path, max_bytes: int = 64 * 1024, max_lines: int = 50) -> str:
    """The last lines of a log, from at most its last `max_bytes` bytes; empty if there is none.

    A first line that the byte limit cut is left out, unless it is the only one.
    """
    try:
        data, cut = _last_bytes(path, max_bytes)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"({path} cannot be read: {error.strerror or error})"
    if cut:
        first, newline, others = data.partition(b"\n")
        data = others if newline and others else first
    lines = _readable(data.decode("utf-8", "replace")).rstrip("\n").split("\n")
    return "\n".join(lines[-max_lines:]) if max_lines > 0 else ""


def log_delta(path: Path, cursor: FileCursor, max_bytes: int = 64 * 1024) -> tuple[str, FileCursor]:
    """The next text of a log, at most `max_bytes` bytes of it; the following call goes on from there.

    A character that is only half written is left for later. After truncation or rotation it starts again.

    Args:
        path: the log.
        cursor: as returned by the last call, or empty.
        max_bytes: at least 4, the longest UTF-8 character.

    Returns:
        The text, and the next cursor; an equal cursor means that nothing was new.
    """
    try:
        piece = read_piece(path, cursor, max_bytes)
    except OSError as error:
        return "", {**cursor, "error": str(error)}
    if piece is None:
        return "", cursor
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(piece.data)
    pending = len(decoder.getstate()[0])
    return _readable(text), piece.after(len(piece.data) - pending)


def last_redraw(line: str) -> str:
    r"""What a terminal shows of a line that was redrawn with ``\r``: its last non-empty state."""
    if "\r" not in line:
        return line
    return next((part for part in reversed(line.split("\r")) if part), "")


def _readable(text: str) -> str:
    # No database takes NUL in a text.
    return "\n".join(map(last_redraw, text.replace("\0", "\ufffd").split("\n")))


def _last_bytes(path: Path, limit: int) -> tuple[bytes, bool]:
    """The end of a file, and whether it begins inside a line."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            raise OSError("not a regular file")
        start = max(0, state.st_size - limit)
        cut = start > 0 and os.pread(fd, 1, start - 1) != b"\n"
        return os.pread(fd, limit, start), cut
    finally:
        os.close(fd)
