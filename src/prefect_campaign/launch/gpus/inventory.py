"""Looks at this machine's GPUs without ever hanging: a worker process asks the driver, one at a time."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from prefect_campaign.launch.gpus.nvml import AFTER_LOSS, UNREADABLE, Reading
from prefect_campaign.model.devices import Gpu, GpuProcess

LIMIT_SECONDS = 10.0
"""How long a caller waits for the driver."""

GIVE_UP_SECONDS = 60.0
"""A worker that has been silent for so long is killed; if it cannot be, no other one is started."""

ABSENT_SECONDS = 60.0
"""For so long a machine without a driver library is taken at its word."""


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    waiting_since: float | None = None
    """When the answer that has not come yet was asked for."""
    received: bytearray = field(default_factory=bytearray)


class GpuReader:
    """Reads the GPUs of this machine, from any thread.

    A driver that hangs holds up the first caller for `limit` seconds and later ones not at all; a driver library
    that crashes takes the worker with it and nothing else.

    Args:
        limit: seconds that a caller waits for the driver.
        clock: monotonic seconds.
    """

    def __init__(self, limit: float = LIMIT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._known: list[Gpu] = []
        self._gone: dict[str, Gpu] = {}
        self._absent_until = float("-inf")

    def read(self) -> Reading:
        """All GPUs as they are now. One that was seen before and is gone is among them, with that as its problem."""
        with self._lock:
            if self._clock() < self._absent_until:
                return Reading()
            reading = self._ask()
            if not reading.problem and not reading.gpus and not reading.driver and not self._known:
                self._absent_until = self._clock() + ABSENT_SECONDS
            return self._with_vanished(reading)

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            worker, self._worker = self._worker, None
            if worker is not None:
                _end(worker)

    def _ask(self) -> Reading:
        deadline = self._clock() + self._limit
        for _ in range(3):
            worker = self._ready_worker()
            if isinstance(worker, Reading):
                return worker
            answer = self._exchange(worker, deadline)
            if answer is None:
                return self._silent(worker)
            if answer:
                return reading_from(json.loads(answer))
            # It ended: by itself, idle or after trouble, or by a crash.
            self._worker = None
            code = _end(worker)
            if code:
                return Reading(problem=_crash(code))
        return Reading(problem="GPUs cannot be read: the worker that asks the driver ends without an answer")

    def _ready_worker(self) -> "_Worker | Reading":
        """A worker that waits for a question, or why there is none."""
        worker = self._worker
        if worker is not None and worker.waiting_since is not None:
            # The answer of an earlier caller who left may have come meanwhile; it is out of date.
            answer = _receive(worker, 0)
            if answer is None:
                if self._clock() - worker.waiting_since < GIVE_UP_SECONDS or not _killed(worker):
                    return self._silent(worker)
                answer = b""
            worker.waiting_since = None
            if not answer:
                _end(worker)
                self._worker = worker = None
        if worker is None or worker.process.poll() is not None:
            if worker is not None:
                _end(worker)
            try:
                self._worker = worker = _Worker(_start())
            except OSError as error:
                self._worker = None
                return Reading(problem=f"GPUs cannot be read: no process can be started ({error.strerror}); try again")
        return worker

    def _exchange(self, worker: _Worker, deadline: float) -> bytes | None:
        """Its answer; None if it is silent until the deadline, empty if it ended."""
        worker.waiting_since = self._clock()
        try:
            os.write(worker.process.stdin.fileno(), b"read\n")  # type: ignore[union-attr]
        except BrokenPipeError:
            return b""
        answer = _receive(worker, max(0.0, deadline - self._clock()))
        if answer is not None:
            worker.waiting_since = None
        return answer

    def _silent(self, worker: _Worker) -> Reading:
        since = worker.waiting_since
        seconds = self._clock() - since if since is not None else self._limit
        return Reading(
            problem=f"GPUs cannot be read: the NVIDIA driver has not answered for {max(seconds, self._limit):.0f} s; "
            "look at `nvidia-smi` and dmesg, a reboot may be needed"
        )

    def _with_vanished(self, reading: Reading) -> Reading:
        """Put a name to a GPU that no longer tells it, and keep those that are gone in sight."""
        if reading.problem:
            return reading
        seen = {gpu.uuid for gpu in reading.gpus}
        missing = {gpu.index: gpu for gpu in self._known if gpu.uuid not in seen}
        gpus = []
        for gpu in reading.gpus:
            if gpu.uuid.startswith(UNREADABLE) and gpu.index in missing:
                known = missing.pop(gpu.index)
                gpu = replace(gpu, uuid=known.uuid, name=known.name, total_mb=known.total_mb)
            gpus.append(gpu)
        self._known = [gpu for gpu in gpus if not gpu.uuid.startswith(UNREADABLE)]
        for gone in missing.values():
            self._gone[gone.uuid] = Gpu(
                gone.uuid, gone.index, name=gone.name, total_mb=gone.total_mb, problem=f"has vanished; {AFTER_LOSS}"
            )
        for gpu in gpus:
            self._gone.pop(gpu.uuid, None)
        gpus += sorted(self._gone.values(), key=lambda gpu: gpu.uuid)
        return replace(reading, gpus=tuple(gpus))


@cache
def shared_reader() -> GpuReader:
    """The reader of this process: however many launchers it has, one of them asks the driver at a time."""
    reader = GpuReader()
    atexit.register(reader.close)
    return reader


def reading_from(plain: dict[str, Any]) -> Reading:
    """A reading from its JSON."""
    return Reading(
        **{
            **plain,
            "gpus": tuple(
                Gpu(**{**gpu, "processes": tuple(GpuProcess(**process) for process in gpu["processes"])})
                for gpu in plain["gpus"]
            ),
        }
    )


def _start() -> "subprocess.Popen[bytes]":
    # -P: modules in the working folder, which may be anybody's, do not stand in for others.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "prefect_campaign.launch.gpus.nvml"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the person's own process
        bufsize=0,
    )


def _receive(worker: _Worker, seconds: float) -> bytes | None:
    """One line; None if it does not come in time, empty if the worker ended."""
    out = worker.process.stdout
    assert out is not None  # noqa: S101 - it is a pipe
    deadline = time.monotonic() + seconds
    while b"\n" not in worker.received:
        poll = select.poll()  # select() itself cannot take a descriptor above 1023
        poll.register(out.fileno(), select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        part = os.read(out.fileno(), 65536)
        if not part:
            return b""
        worker.received += part
    line, _, rest = bytes(worker.received).partition(b"\n")
    worker.received[:] = rest
    return line


def _killed(worker: _Worker) -> bool:
    """Whether it is gone; a process that waits in the kernel for a broken driver cannot be killed."""
    worker.process.kill()
    try:
        worker.process.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(worker: _Worker) -> int | None:
    """Let it go; its exit code, None if it does not even die."""
    with suppress(OSError):
        worker.process.stdin.close()  # type: ignore[union-attr]
    worker.process.stdout.close()  # type: ignore[union-attr]
    try:
        return worker.process.wait(0.5 if worker.waiting_since is None else 0.0)
    except subprocess.TimeoutExpired:
        return worker.process.returncode if _killed(worker) else None


def _crash(code: int) -> str:
    how = f"by {signal.Signals(-code).name}" if -code in signal.valid_signals() else f"with code {code}"
    return f"GPUs cannot be read: the NVIDIA driver library crashed {how}; look at `nvidia-smi`, a reboot may be needed"
