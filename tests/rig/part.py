"""What all parts have in common: programs, daemons, addresses, and nothing left behind."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from prefect_campaign.launch.identity import all_processes, environment, with_descendants
from rig.daemon import MARK, PATH, Daemon
from rig.home import CannotError, Home


class Part:
    """One part of the rig, in one folder of its name."""

    name: ClassVar[str]
    packages: ClassVar[Mapping[str, str]]
    """Program -> the Debian package that has it."""
    needs_root: ClassVar[bool] = True

    def __init__(self, home: Home) -> None:
        self.home = home

    def daemons(self) -> list[Daemon]:
        """In the order of their start."""
        raise NotImplementedError

    def addresses(self) -> dict[str, str]:
        """What goes into the env file."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Folders and configuration; the same every time."""

    def finish(self) -> None:
        """What is made once all daemons answer."""

    def quiet(self) -> None:
        """End the work that runs inside, before the daemons are stopped."""

    def clear(self) -> None:
        """Take away what outlives the daemons."""

    @property
    def tests_lock(self) -> Path:
        """A file for tests to take turns with, whoever they run as."""
        return self.home.path / self.name / "tests.lock"

    def missing(self) -> set[str]:
        """Debian packages that are not there."""
        return {package for program, package in self.packages.items() if self.program(program) is None}

    def program(self, name: str) -> str | None:
        """Where a program is."""
        return shutil.which(name, path=PATH)

    def daemon(self, name: str) -> Daemon:
        """One of them."""
        return next(daemon for daemon in self.daemons() if daemon.name == name)

    def is_up(self) -> bool:
        """Whether all its daemons run."""
        return self.was_started() and all(daemon.pid() for daemon in self.daemons())

    def was_started(self) -> bool:
        """Whether it ever was up in this home, so that there is something to look at."""
        return (self.home.path / self.name).exists() and not self.missing()

    def up(self) -> int:
        """Start what does not run.

        Returns:
            The number of daemons that had to be started.

        Raises:
            CannotError: this part cannot run here.
        """
        if self.needs_root and os.geteuid() != 0:
            raise CannotError("needs root")
        if missing := self.missing():
            raise CannotError(f"needs the Debian packages {' '.join(sorted(missing))}")
        self.home.folder(self.name)
        self.tests_lock.touch()
        self.prepare()
        started = sum(daemon.up() for daemon in self.daemons())
        self.finish()
        return started

    def down(self) -> int:
        """Stop what was started here, and all that it started.

        Returns:
            The number of daemons that ran.
        """
        if not self.was_started():
            return 0
        if self.is_up():
            self.quiet()
        ran = sum(daemon.stop() for daemon in reversed(self.daemons()))
        sweep(lambda variables: f"{MARK}={self.home.path}:{self.name}".encode() in variables)
        self.clear()
        return ran


def sweep(ours: Callable[[list[bytes]], bool]) -> None:
    """Kill every process whose first environment says that it is ours, with all that descends from it."""
    while True:
        table = all_processes()
        roots = [pid for pid, process in table.items() if process.alive and ours(environment(pid))]
        found = [pid for pid in with_descendants(table, roots) if table[pid].alive]
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                # Looked at once more: the number may have been given to another process since.
                now = all_processes().get(pid)
                if now is not None and now.start_ticks == table[pid].start_ticks:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                os.close(descriptor)
