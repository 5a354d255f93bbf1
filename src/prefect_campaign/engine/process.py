"""The one place that runs short outside programs, and the identity of this process."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from prefect_campaign.launch.process import boot_id, host_name, read_process
from prefect_campaign.model.errors import Transient


def run(
    argv: Sequence[str], timeout: float, cwd: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end and capture what it prints; never through a shell.

    Args:
        argv: program and arguments.
        timeout: seconds, after which it is killed.
        cwd: folder to run in.
        env: its whole environment; default: that of this process.

    Raises:
        Transient: it did not end in time, or could not be started.
    """
    try:
        return subprocess.run(
            list(argv), timeout=timeout, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        raise Transient(f"{argv[0]}: no answer within {timeout:g} s; try again") from None
    except OSError as error:
        raise Transient(f"{argv[0]}: could not be started ({error.strerror})") from None


def own_identity() -> str:
    """This process, so that others can see whether it is still the same one."""
    return identity_of(os.getpid()) or ""


def identity_of(pid: int) -> str | None:
    """A process of this machine as ``host:pid:boot.start``, never used again; None if there is none of that pid.

    The start is in clock ticks since boot: unlike a time of day it does not move when the clock is set.
    """
    process = read_process(pid)
    return f"{host_name()}:{pid}:{boot_id()}.{process.start_ticks}" if process else None


def identity_alive(identity: str) -> bool:
    """Whether the process of that identity may still be alive; on another host it is taken to be."""
    host, pid, _ = identity.rsplit(":", 2)
    if host != host_name():
        return True
    process = read_process(int(pid))
    return process is not None and process.alive and identity_of(int(pid)) == identity
