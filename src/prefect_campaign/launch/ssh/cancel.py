"""Ending a whole process tree on another host: what `tree.stop_tree` does here, step by step over the connection."""

from collections.abc import Collection

from prefect_campaign.launch.process import Process, with_descendants
from prefect_campaign.launch.ssh.connection import CALL_SECONDS, Connection
from prefect_campaign.launch.ssh.remote import Job, read_scan, read_words, scan_script, signal_script

_KILL_ROUNDS = 5
_KILL_SECONDS = 1.0


async def end_job(connection: Connection, job: Job, grace_seconds: float) -> list[int]:
    """TERM to every process of the job, KILL after the grace; `job.sh` goes last, so that it can record the exit.

    A signal goes to a process only if it has the pid and the start that were seen: never to a stranger.

    Returns:
        Pids that are still there; empty when all is over.

    Raises:
        Transient: the host did not answer; cancel again.
    """
    held: dict[int, Process] = {}

    async def scan() -> tuple[int | None, list[Process]]:
        leader, marked, table = read_scan(await connection.read(scan_script(job)))
        found = tree(leader, marked, table, held)
        held.update(found)
        return leader, list(found.values())

    async def send(name: str, doomed: Collection[Process], waited: Collection[Process], seconds: float) -> list[int]:
        script = signal_script(name, doomed, waited, seconds)
        words = read_words(await connection.read(script, seconds=CALL_SECONDS + 3 * seconds), first=("left",))
        left = [int(word) for word in words[1:] if word.isdecimal()]
        for process in list(waited):
            if process.pid not in left:
                held.pop(process.pid, None)
        return left

    leader, found = await scan()
    if not found:
        return []
    first = set(held)
    if not await send("TERM", [p for p in found if p.parent != leader], list(held.values()), grace_seconds):
        leader, found = await scan()  # a process that was forked as its parent died
        if not found:
            return []
    for sparing in (True, False):
        for _ in range(_KILL_ROUNDS):
            leader, found = await scan()
            # A child that job.sh starts now is the mv of its record.
            recording = {p.pid for p in found if p.parent == leader and p.pid not in first} | {leader}
            doomed = [p for p in found if not (sparing and p.pid in recording)]
            if not doomed:
                break
            await send("KILL", doomed, doomed, _KILL_SECONDS)
        if not await send("KILL", [], list(held.values()), _KILL_SECONDS):
            return []
    return sorted(held)


def tree(
    leader: int | None, marked: Collection[int], table: dict[int, Process], known: dict[int, Process]
) -> dict[int, Process]:
    """Living processes of the job: session of `job.sh`, marked and known ones, and all that descend from these (pure).

    Args:
        leader: pid of `job.sh`, None if it is dead.
        marked: processes that carry the run dir in their environment, looked for if it is dead.
        table: every process of the host.
        known: processes that were seen to be the job's before.
    """
    roots = {pid for pid, process in table.items() if leader is not None and process.session == leader}
    roots |= {leader} if leader is not None else set(marked)
    roots |= {pid for pid, p in known.items() if pid in table and table[pid].start_ticks == p.start_ticks}
    return {pid: table[pid] for pid in with_descendants(table, roots) if table[pid].alive}
