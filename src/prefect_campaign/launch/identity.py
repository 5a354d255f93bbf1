"""Which processes of this machine belong to a local job: by recorded identity, by claim, by session and descent."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

from prefect_campaign.launch.process import (
    Process,
    all_processes,
    boot_id,
    command_line,
    environment,
    host_name,
    read_process,
    with_descendants,
)
from prefect_campaign.launch.script import CLAIM_NAME, CONTAINER_NAME, SCRIPT_NAME
from prefect_campaign.model.records import AttemptSpec, Handle

LOCAL = "local"
"""The launcher's name in handles."""

_LOOKS, _LOOK_PAUSE = 50, 0.02
_STARTING_SECONDS = 10.0
"""No exec takes so long: a process without a command line that is older than this has thrown it away."""


def handle_of(pid: int | None, start_ticks: int | None) -> Handle:
    """A handle on a process of this machine; `start_ticks` is None for one that is over."""
    detail = {"pid": pid, "start_ticks": start_ticks, "boot_id": boot_id()}
    return Handle(launcher=LOCAL, host=host_name(), job_id=str(pid or ""), detail=detail)


def elsewhere(handle: Handle) -> bool:
    """Whether the job is another launcher's, or on another machine; not after another boot, when nothing lives on."""
    if handle.launcher != LOCAL:
        return True
    return handle.detail.get("boot_id") != boot_id() and handle.host != host_name()


def living_leader(spec: AttemptSpec, handle: Handle) -> Process | None:
    """`job.sh` by the identity in the handle, or else the one that won the claim."""
    if handle.detail.get("boot_id") == boot_id() and isinstance(handle.detail.get("pid"), int):
        process = read_process(handle.detail["pid"])
        if process and process.alive and process.start_ticks == handle.detail.get("start_ticks"):
            return process
    pid = claimed_pid(spec)
    return _leader_at(spec, pid) if pid else None


async def find_leader(spec: AttemptSpec) -> Process | None:
    """`job.sh` without a handle: by the pid in its claim, else by its command line."""
    for _ in range(_LOOKS):
        leader = _leader(spec)
        if leader is not None or not _some_leader_starts():
            return leader
        await asyncio.sleep(_LOOK_PAUSE)  # its starter may have been killed this very moment
    return _leader(spec)


def _leader(spec: AttemptSpec) -> Process | None:
    pid = claimed_pid(spec)
    if pid is not None:
        return _leader_at(spec, pid)
    # Not that far yet: started, but the claim is not written.
    leaders = filter(None, (_leader_at(spec, process.pid) for process in all_processes().values()))
    return min(leaders, key=lambda process: process.start_ticks, default=None)


def _some_leader_starts() -> bool:
    """Whether a session leader is in the middle of its exec, when for a moment no command line is to be seen."""
    tick, now = os.sysconf("SC_CLK_TCK"), float(Path("/proc/uptime").read_text().split()[0])
    return any(
        process.session == process.pid
        and process.alive
        and now - process.start_ticks / tick < _STARTING_SECONDS
        and not command_line(process.pid)
        for process in all_processes().values()
    )


def _leader_at(spec: AttemptSpec, pid: int) -> Process | None:
    """The process of this pid if it is this attempt's `job.sh`: leads a session, and runs exactly that file."""
    process = read_process(pid)
    if process is None or not process.alive or process.session != pid:
        return None
    script = os.fsencode(Path(spec.run_dir) / SCRIPT_NAME)
    return process if script in command_line(pid)[:2] else None


def claimed_pid(spec: AttemptSpec) -> int | None:
    """The pid that `job.sh` wrote into its claim; None before that, or if it is damaged."""
    try:
        text = (Path(spec.run_dir) / CLAIM_NAME / "pid").read_text("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return int(text) if text.isdecimal() and len(text) < 10 else None


def in_container(spec: AttemptSpec) -> bool:
    """Whether the Docker launcher had it in its hands, whose processes have other numbers here."""
    return (Path(spec.run_dir) / CONTAINER_NAME).exists()


def processes_of(spec: AttemptSpec, handle: Handle, known: Collection[int] = ()) -> list[Process]:
    """All living processes of the job: its session and every descendant.

    If `job.sh` itself is dead, its pid alone proves nothing: the members of its session must carry this run
    dir in their environment.
    """
    table = all_processes()
    leader = living_leader(spec, handle)
    if leader is not None:
        roots = {pid for pid, process in table.items() if process.session == leader.pid}
    else:
        session = handle.detail.get("pid") if handle.detail.get("boot_id") == boot_id() else None
        mark = b"CAMPAIGN_RUN_DIR=" + os.fsencode(spec.run_dir)
        members = [pid for pid, process in table.items() if process.session == session]
        roots = {pid for pid in members if mark in environment(pid)}
    found = with_descendants(table, {*roots, *known})
    return [table[pid] for pid in sorted(found) if table[pid].alive]
