"""Ending a whole process tree by pidfd: TERM, a grace, KILL; no signal can ever reach a stranger."""

import asyncio
import os
import select
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Self

from prefect_campaign.launch.process import Process, read_process

Scan = Callable[[Collection[int]], list[Process]]
"""Known living pids -> all living processes of the job now, those and their descendants included."""

_KILL_ROUNDS = 5
_KILL_SECONDS = 1.0
"""How long a killed process may take to go before the next round looks for new ones."""


async def stop_tree(scan: Scan, leader: int | None, grace_seconds: float) -> list[int]:
    """End every process that `scan` finds.

    Args:
        scan: finds the processes of the job.
        leader: pid of `job.sh` if it lives. It hands TERM to its own child, and it goes last, so that it can
            still record the exit.
        grace_seconds: time between TERM and KILL.

    Returns:
        Pids that are still there after KILL (another user's, or stuck in the kernel); empty when all is over.
    """
    with _Held() as held:
        processes = scan([])
        known = {process.pid for process in processes}
        held.add(processes)
        held.send(signal.SIGTERM, [p.pid for p in processes if leader is None or p.parent != leader])
        if await held.wait(held.pids(), grace_seconds):
            return []
        for sparing in (True, False):
            for _ in range(_KILL_ROUNDS):
                processes = scan(held.pids())
                held.add(processes)
                # A child that job.sh starts now is the mv of its record.
                recording = {p.pid for p in processes if p.parent == leader and p.pid not in known} | {leader}
                doomed = [p.pid for p in processes if not (sparing and p.pid in recording)]
                if not doomed:
                    break
                held.send(signal.SIGKILL, doomed)
                await held.wait(doomed, _KILL_SECONDS)
            if await held.wait(held.pids(), _KILL_SECONDS):
                return []
        return held.pids()


class _Held:
    """Living processes, each pinned by a pidfd, which keeps its meaning when the pid is used again."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def add(self, processes: list[Process]) -> None:
        for process in processes:
            if process.pid not in self._fds:
                fd = open_pidfd(process)
                if fd is not None:
                    self._fds[process.pid] = fd

    def pids(self) -> list[int]:
        """Those still living; the others are let go."""
        poll = select.poll()
        by_fd = {fd: pid for pid, fd in self._fds.items()}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0):
            os.close(self._fds.pop(by_fd[fd]))
        return sorted(self._fds)

    def send(self, number: signal.Signals, pids: Collection[int]) -> None:
        for pid in pids:
            if pid in self._fds:
                # PermissionError: it changed its user; what stays alive is reported at the end.
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(self._fds[pid], number)

    async def wait(self, pids: Collection[int], seconds: float) -> bool:
        """Whether all of them ended within the time."""
        loop = asyncio.get_running_loop()
        left = {self._fds[pid] for pid in pids if pid in self._fds}
        over = loop.create_future()

        def ended(fd: int) -> None:
            loop.remove_reader(fd)
            left.discard(fd)
            if not left and not over.done():
                over.set_result(None)

        if not left:
            return True
        for fd in left:
            loop.add_reader(fd, ended, fd)
        try:
            async with asyncio.timeout(seconds):
                await over
        except TimeoutError:
            return False
        finally:
            for fd in left:
                loop.remove_reader(fd)
        return True


def open_pidfd(process: Process) -> int | None:
    """A pidfd of exactly this process, or None if it is over. Readable once it has ended.

    Raises:
        OSError: no file descriptor is left.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # Looked at again after opening: the pid may have been used anew in between.
    now = read_process(process.pid)
    if now is None or now.start_ticks != process.start_ticks or not now.alive:
        os.close(fd)
        return None
    return fd
