"""Ends what a failed test left running."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def no_leftovers(folder: Path) -> Iterator[None]:
    """Afterwards, kill the processes that work in `folder` or run a script from it: jobs outlive their starters."""
    before = set(os.listdir("/proc"))
    try:
        yield
    finally:
        for pid in filter(str.isdecimal, set(os.listdir("/proc")) - before):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
                inside = [os.readlink(f"/proc/{pid}/cwd"), *map(os.fsdecode, words)]
                if int(pid) != os.getpid() and any(f"{path}/".startswith(f"{folder}/") for path in inside):
                    os.kill(int(pid), signal.SIGKILL)
