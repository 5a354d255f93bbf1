"""The one place that runs short outside programs, and the identity of this process."""

import os
import socket
import subprocess
from collections.abc import Sequence

import psutil

from prefect_campaign.model.errors import Transient


def run(argv: Sequence[str], timeout: float, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end and capture what it prints; never through a shell.

    Args:
        argv: program and arguments.
        timeout: seconds, after which it is killed.
        cwd: folder to run in.

    Raises:
        Transient: it did not end in time, or could not be started.
    """
    try:
        return subprocess.run(
            list(argv), timeout=timeout, cwd=cwd, capture_output=True, text=True, errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        raise Transient(f"{argv[0]}: no answer within {timeout:g} s; try again") from None
    except OSError as error:
        raise Transient(f"{argv[0]}: could not be started ({error.strerror})") from None


def own_identity() -> str:
    """This process, so that others can see whether it is still the same one: host, pid, start time."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def identity_alive(identity: str) -> bool:
    """Whether the process of that identity may still be alive; on another host it is taken to be."""
    host, pid, started = identity.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def git_state(folder: str) -> tuple[str | None, bool]:
    """Commit of the work tree around `folder`, and whether tracked files differ from it; (None, False) outside git."""
    try:
        head = run(["git", "rev-parse", "HEAD"], 10, folder)
        changes = run(["git", "status", "--porcelain", "--untracked-files=no"], 30, folder)
    except Transient:
        return None, False
    if head.returncode != 0:
        return None, False
    return head.stdout.strip(), bool(changes.stdout.strip())


def hostname() -> str:
    """Name of this machine, as leases and results know it."""
    return socket.gethostname() or os.uname().nodename
