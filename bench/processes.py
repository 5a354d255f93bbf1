"""What the benchmark starts, and how all of it ends again: programs in sessions of their own, and a Prefect server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from prefect_campaign.cli.server import SERVER_SETTINGS

START_SECONDS = 120.0
QUIET_SHARE = 0.1
"""A server that uses less than this of one CPU has worked off what it was sent."""


def environment(folder: Path, api: str | None = None) -> dict[str, str]:
    """A user's environment within `folder`; nothing is inherited but the way to the programs."""
    (folder / "user").mkdir(exist_ok=True)
    mine = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "user"),
        "PREFECT_HOME": str(folder / "user" / ".prefect"),
        "CAMPAIGN_HOME": str(folder / "campaigns"),
        "DO_NOT_TRACK": "1",
        **SERVER_SETTINGS,
    }
    return {**mine, **({"PREFECT_API_URL": api} if api else {})}


@contextmanager
def started(
    argv: Sequence[str], env: Mapping[str, str], *, out: IO[bytes] | int, err: IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is over when the block is, with everything that it has started in its session."""
    process = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=env["HOME"], start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class PrefectServer:
    """A server of the benchmark's own."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of the server and its children so far."""
        times = [one.cpu_times() for one in self._family()]
        return sum(t.user + t.system for t in times)

    def peak_mb(self) -> float:
        """The most memory that its processes have held so far, summed."""
        found = 0.0
        for one in self._family():
            with suppress(OSError):
                status = Path(f"/proc/{one.pid}/status").read_text()
                found += next((int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line), 0) / 1024
        return found

    def settle(self, patience: float = 20.0) -> None:
        """Wait until it has worked off what the last contender sent, so that the next one has the machine."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.5)
            if self.cpu_seconds() - before < QUIET_SHARE * 0.5:
                return

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def prefect_server(folder: Path) -> Iterator[PrefectServer]:
    """A Prefect server that keeps everything in `folder` and is gone after the block.

    Raises:
        RuntimeError: it does not come up; the message has the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    log = folder / "server.log"
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with log.open("wb") as file, started(argv, environment(folder, url), out=file, err=file) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Prefect server does not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield PrefectServer(url, psutil.Process(process.pid))


def file_system(folder: Path) -> str:
    """Type of the file system that `folder` is on: on one in memory, a durable ledger costs less than it should."""
    places = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    return max(places, key=lambda p: len(p.mountpoint)).fstype if places else "unknown"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:  # noqa: S310 - the URL is ours
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
