"""Processes of this machine by identity (pid, start time, boot), read from /proc."""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process as /proc/<pid>/stat shows it."""

    pid: int
    parent: int
    session: int
    state: str
    start_ticks: int
    """Clock ticks since boot at its start: with pid and boot id, an identity that is never used again."""

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie only waits to be reaped."""
        return self.state not in ("Z", "X")


def read_process(pid: int) -> Process | None:
    """The process that has this pid now, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold spaces and parentheses (man 5 proc).
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
    )


def all_processes() -> dict[int, Process]:
    """Every process that is visible now, by pid."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def with_descendants(table: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """The pids of `roots` and of everything that descends from them."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def command_line(pid: int) -> list[bytes]:
    """Its argv; empty if it is gone or not ours to see."""
    return _nul_separated(f"/proc/{pid}/cmdline")


def environment(pid: int) -> list[bytes]:
    """Its first environment as ``NAME=value`` items; empty if it is gone or not ours to see."""
    return _nul_separated(f"/proc/{pid}/environ")


@cache
def boot_id() -> str:
    """Names this boot of this machine's kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def host_name() -> str:
    """This machine's name."""
    return socket.gethostname()


def _nul_separated(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
