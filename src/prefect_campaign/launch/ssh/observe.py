"""Seeing many jobs of one host at once, and what may be said of them when."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.mirror import Missing, local_end, mirror, put_record, started
from prefect_campaign.launch.ssh.remote import Job, Seen, observe_script, read_observed, set_aside_script
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Handle, Observation


@dataclass
class _Open:
    """A job whose end is not here yet."""

    spec: AttemptSpec
    handle: Handle
    notes: list[str] = field(default_factory=list)

    quiet_since: float | None = None
    """When its host saw it write last, in seconds since the epoch by the clock here."""

    def seen(self, status: str, *details: str) -> Observation:
        detail = "; ".join((*self.notes, *filter(None, details)))
        quiet = self.quiet_since if status == "running" else None
        return Observation(
            status,  # type: ignore[arg-type]
            started_at=started(self.spec),
            detail=detail,
            quiet_since=quiet,
        )


async def observe_jobs(
    connection: Connection,
    there: Callable[[], Awaitable[RemotePlace]],
    handles: Sequence[tuple[AttemptSpec, Handle]],
    clock: Clock = system_clock,
) -> dict[str, Observation]:
    """Token -> what is seen of that job.

    Args:
        connection: to the host.
        there: gives the host's folders.
        handles: the jobs.
        clock: seconds since the epoch.
    """
    found: dict[str, Observation] = {}
    waiting: list[_Open] = []
    for spec, handle in handles:
        one = _Open(spec, handle)
        if not _over_here(one, found):
            waiting.append(one)
    waiting = [one for one in waiting if one.spec.token not in found]
    for one in [one for one in waiting if one.handle.host != connection.host.name]:
        found[one.spec.token] = one.seen("unreachable", f"runs on host {one.handle.host}")
        waiting.remove(one)
    # A second look for those whose exit record turned out to be damaged and was set aside.
    for _ in range(2):
        if waiting:
            waiting = await _look(connection, there, waiting, found, clock)
    for one in waiting:
        found[one.spec.token] = one.seen("unreachable", "its exit record is damaged and could not be set aside")
    return found


async def _look(
    connection: Connection,
    there: Callable[[], Awaitable[RemotePlace]],
    waiting: list[_Open],
    found: dict[str, Observation],
    clock: Clock,
) -> list[_Open]:
    """One look at the host; returns those that must be looked at once more."""
    try:
        place = await there()
        jobs = [job_of(one.spec, one.handle, place) for one in waiting]
        copied = any(not connection.host.is_shared(one.spec.run_dir) for one in waiting)
        answer = await connection.read(observe_script(place.root if copied else "/", jobs))
        seen = read_observed(answer, len(jobs))
    except CampaignError as error:
        for one in waiting:
            found[one.spec.token] = one.seen("unreachable", str(error))
        return []
    if seen is None:
        for one in waiting:
            found[one.spec.token] = replace(one.seen("unreachable", _no_root(place)), host_answers=True)
        return []
    # Taken after the answer, so that time lost on the way makes a job look busier, never more quiet.
    now = clock()
    pairs = list(zip(waiting, seen, strict=True))
    for one, state in pairs:
        one.quiet_since = now - state.quiet_seconds if state and state.quiet_seconds is not None else None
    over = [one.spec for one, state in pairs if state and state.folder and _is_over(state)]
    alive = [one.spec for one, state in pairs if state and state.folder and not _is_over(state)]
    missing = await mirror(connection, place, alive, final=False)
    missing |= await mirror(connection, place, over, final=True)
    again = [spec for spec in over if spec.token in missing]
    if again:
        missing = {token: why for token, why in missing.items() if token not in {spec.token for spec in again}}
        missing |= await mirror(connection, place, again, final=True)
    if over:
        crash_point("files_copied")
    damaged = []
    for one, state in pairs:
        if state is None:
            found[one.spec.token] = one.seen("unreachable", f"host {connection.host.name} said nothing of it")
        elif not _judged(connection, place, one, state, missing.get(one.spec.token), found):
            damaged.append(one)
    if damaged:
        await _set_aside(connection, place, damaged)
    return damaged


def _no_root(place: RemotePlace) -> str:
    """The jobs may have ended well, with their records on a disk that is not there now: so nothing is made anew."""
    return (
        f"host {place.host.name} answers, but its work folder {place.root} is gone; if its disk is not mounted, mount "
        f"it; if it was deleted, `mkdir -p {quote(place.root)}` there: jobs that do not live are lost then, and tried "
        "again"
    )


def _is_over(state: Seen) -> bool:
    return state.record is not None or not (state.alive or state.rest)


def _judged(
    connection: Connection,
    place: RemotePlace,
    one: _Open,
    state: Seen,
    missing: Missing | None,
    found: dict[str, Observation],
) -> bool:
    """Say what is known of a job; not if its exit record turned out to be damaged."""
    spec, host = one.spec, connection.host.name
    shared = connection.host.is_shared(spec.run_dir)
    why = missing.why if missing else ""
    if not _is_over(state):
        rest = "job.sh was killed, but some of its processes live on" if state.rest else ""
        found[spec.token] = one.seen("running", rest, f"files may be out of date: {why}" if why else "")
    elif missing and missing.failed:
        found[spec.token] = one.seen("unreachable", f"is over, but its files are not here yet: {why}")
    elif state.record is not None:
        if not shared:
            try:
                put_record(spec, state.record, state.recorded_at)
            except OSError as error:
                found[spec.token] = one.seen("unreachable", f"is over, but its record cannot be written here: {error}")
                return True
        if _over_here(one, found):
            if why and found[spec.token].status == "exited":
                over = found[spec.token]
                found[spec.token] = replace(over, detail=f"some files could not be copied: {why}")
        elif shared and not one.notes:
            found[spec.token] = one.seen("unreachable", f"is over on host {host}, which is not to be seen here yet")
        else:
            return False
    elif shared and not state.folder:
        found[spec.token] = one.seen("unreachable", f"{spec.run_dir} is not to be seen on {host}; is it mounted?")
    else:
        run_dir = place.run_dir(spec)
        found[spec.token] = one.seen("gone", why, f"no process and no exit record in {run_dir} on host {host}")
    return True


def _over_here(one: _Open, found: dict[str, Observation]) -> bool:
    """Whether the local run dir tells the end, which is then said; a damaged record is noted."""
    try:
        over, note = local_end(one.spec)
    except OSError as error:
        found[one.spec.token] = one.seen("unreachable", f"{one.spec.run_dir}: {error}")
        return True
    if note:
        one.notes.append(note)
    if over is not None:
        found[one.spec.token] = replace(over, detail="; ".join(one.notes))
    return over is not None


async def _set_aside(connection: Connection, place: RemotePlace, damaged: Sequence[_Open]) -> None:
    copied = [place.run_dir(one.spec) for one in damaged if not connection.host.is_shared(one.spec.run_dir)]
    if copied:
        try:
            await connection.read(set_aside_script(copied))
        except CampaignError as error:
            for one in damaged:
                one.notes.append(str(error))


def job_of(spec: AttemptSpec, handle: Handle, place: RemotePlace) -> Job:
    """The job that a handle means; what is missing or strange in it is left out."""
    pid, ticks = (handle.detail.get(name) for name in ("pid", "start_ticks"))
    run_dir = handle.detail.get("run_dir")
    return Job(
        run_dir if isinstance(run_dir, str) and run_dir else place.run_dir(spec),
        pid if isinstance(pid, int) else None,
        ticks if isinstance(ticks, int) else None,
        str(handle.detail.get("boot_id") or ""),
    )
