"""Small things about a job's files that launchers share."""

import errno
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

PASSING = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
)
"""Errors of the machine, not of the spec: they may be over at the next try."""


def write_script(path: Path, script: str) -> None:
    """Put `job.sh` in place whole, for its owner only; several may do so at once.

    Raises:
        OSError: it cannot be written.
    """
    fd, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o700)
            file.write(script.encode("utf-8", "surrogateescape"))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def signal_of(exit_code: int) -> int | None:
    """The signal that an exit code of a shell stands for (128 + number); None if for none."""
    number = exit_code - 128
    return number if number > 0 and number in signal.valid_signals() else None
