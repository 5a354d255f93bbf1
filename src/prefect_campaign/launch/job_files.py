"""Small things about a job's files that launchers share."""

import errno
import os
import signal
from pathlib import Path

PASSING = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
)
"""Errors of the machine, not of the spec: they may be over at the next try."""


def write_script(path: Path, script: str) -> None:
    """Put `job.sh` in place whole, for its owner only.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
    with open(fd, "wb") as file:
        file.write(script.encode("utf-8", "surrogateescape"))
    temporary.replace(path)


def signal_of(exit_code: int) -> int | None:
    """The signal that an exit code of a shell stands for (128 + number); None if for none."""
    number = exit_code - 128
    return number if number > 0 and number in signal.valid_signals() else None
