"""Processes of the fake Slurm's jobs: found by session and descent, stopped as a cluster stops them."""

import os
import signal
import time
from contextlib import suppress


def stop(pid, wait):
    """TERM to all processes of a session, then KILL to those that were ever seen, without waiting for it."""
    if pid is None or os.fork():
        return
    os.setsid()
    known = members(pid)
    if wait:
        kill(known, signal.SIGTERM)
        deadline = time.time() + wait
        while (now := members(pid, known)) and time.time() < deadline:
            known |= now
            time.sleep(0.02)
    kill(members(pid, known), signal.SIGKILL)
    os._exit(0)


def kill(pids, number):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def members(session, known=()):
    """Living processes of a session, those that are known, and all that descend from them."""
    table = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
            if words[0] not in "ZX":
                table[int(pid)] = int(words[1]), int(words[3])
    found = {pid for pid, (_, leader) in table.items() if leader == session or pid in known}
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return found
