"""The SSH launcher: jobs on another machine that outlive the connection, their files mirrored to here."""

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect_campaign.launch import tmux
from prefect_campaign.launch.gpus.numbers import Numbers, WithNumbers
from prefect_campaign.launch.poller import Poller
from prefect_campaign.launch.script import STDERR_NAME, STDOUT_NAME, job_script
from prefect_campaign.launch.ssh.cancel import end_job
from prefect_campaign.launch.ssh.checkpoints import RemoteCheckpoints
from prefect_campaign.launch.ssh.code import CodeSync
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.errors import remote_failure
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.look import look_at, unseen
from prefect_campaign.launch.ssh.observe import job_of, observe_jobs
from prefect_campaign.launch.ssh.remote import (
    facts_script,
    find_script,
    read_facts,
    read_words,
    start_script,
    unhex,
)
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

SSH = "ssh"
"""The launcher's name in handles."""

_LONGEST_PAUSE = 60.0
_WRONG = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EROFS})

log = logging.getLogger("prefect_campaign")


class SshLauncher(WithNumbers):
    """Runs attempts on one SSH host.

    Args:
        host: the host.
        poll_seconds: how often its jobs are looked at; less often, up to once a minute, while it is away.
        clock: seconds since the epoch.
    """

    name = SSH

    def __init__(self, host: SshHost, *, poll_seconds: float = 5.0, clock: Clock = system_clock) -> None:
        self.host = host
        self.slots = host.slots or 1
        self._connection = Connection(host)
        self._code = CodeSync(self._connection)
        self.checkpoints = RemoteCheckpoints(self._connection, self._there)
        self._clock = clock
        self._place: RemotePlace | None = None
        self._placing = asyncio.Lock()
        self._numbers = Numbers()
        self._handles: dict[str, Handle] = {}
        self._poller = Poller(host.name, self.observe, lambda: poll_seconds, longest=_LONGEST_PAUSE)

    async def look(self) -> list[HostView]:
        """The host, with its GPUs by ``nvidia-smi``; if it cannot be reached, that is its problem."""
        try:
            place = await self._there()
        except CampaignError as error:
            return [unseen(self._connection, self.slots, self._clock, error)]
        return [await look_at(self._connection, place, self.slots, self._clock, self._numbers)]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Bring the code there and start `job.sh` in a session of its own; it lives on without the connection.

        Raises:
            Transient: the host cannot be reached, or is short of disk, memory or processes; nothing was started.
            Refused: the spec or the host's settings cannot work.
            Unknown: the run dir is claimed already, or the connection died while the job was started.
        """
        job_script(spec)
        place = await self._there()
        if self.host.tmux and "tmux" not in place.facts.programs:
            raise Refused(f"host {self.host.name}: " + tmux.NOT_INSTALLED.format(where=" there"))
        if not self.host.is_shared(spec.run_dir) and "rsync" not in place.facts.programs:
            raise Refused(f"host {self.host.name}: rsync is not installed there; install it")
        _make_run_dir(spec)
        for _ in range(2):
            code = await self._code_for(spec, place)
            handle = await self._start(spec, place, code)
            if handle is not None:
                return handle
        raise Transient(f"{spec.token}: its code vanishes from host {self.host.name}; try again")

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The job of this attempt by what it left in its run dir there, or else by its command line.

        Raises:
            Transient: the host cannot be asked now, so that nothing is known.
        """
        if spec.token in self._handles:
            return self._handles[spec.token]
        place = await self._there()
        answer = await self._connection.read(find_script(place.run_dir(spec)))
        words = read_words(answer, first=("found", "none"))
        if words[0] == "none":
            return None
        return self._handle(spec, place, words[1:])

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """One look at the host for all jobs, then one copy of what is new in their run dirs.

        An exit is told once the record and all other files are here; jobs of a host that does not answer are
        ``unreachable``. A job whose end is here already costs no call.
        """
        return await observe_jobs(self._connection, self._there, handles, clock=self._clock)

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the whole tree there: the session of `job.sh` and all descendants. Believed only when seen.

        Raises:
            Transient: the host cannot be asked, or some process outlived KILL.
        """
        if handle.host != self.host.name:
            raise Transient(f"{spec.token}: runs on host {handle.host}, not on {self.host.name}")
        place = await self._there()
        left = await end_job(self._connection, job_of(spec, handle, place), grace_seconds)
        if left:
            raise Transient(
                f"{spec.token}: processes {', '.join(map(str, left))} on host {self.host.name} cannot be ended; "
                "look at them with ps, then cancel again"
            )

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once the job is over and its files are here; one poller looks after all jobs."""
        self._poller.follow(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Local paths of stdout and stderr; they are as new as the last look at the job."""
        run_dir = Path(spec.run_dir)
        return run_dir / STDOUT_NAME, run_dir / STDERR_NAME

    def close(self) -> None:
        """Stop watching; jobs go on. The connection closes by itself a minute after its last use."""
        self._poller.close()

    async def _there(self) -> RemotePlace:
        """The host's folders; asked for once."""
        async with self._placing:
            if self._place is None:
                facts = read_facts(await self._connection.read(facts_script()))
                self._place = RemotePlace(self.host, facts)
                self.slots = self.host.slots or facts.processors
            return self._place

    async def _code_for(self, spec: AttemptSpec, place: RemotePlace) -> str:
        """Folder of the code on the host; empty if the working folder is there by itself.

        A working folder that is not here is taken to be on the host.
        """
        if not _is_to_be_copied(spec.workdir, self.host):
            return ""
        return await self._code.bring(spec.workdir, spec.run_dir, place.code)

    async def _start(self, spec: AttemptSpec, place: RemotePlace, code: str) -> Handle | None:
        """Start the job; None if its code is not there any more.

        Raises:
            Transient: nothing was started.
            Refused: nothing was started, nor can it be.
            Unknown: look first.
        """
        there = place.attempt(spec, code or spec.workdir)
        script = start_script(there, job_script(there), code, in_tmux=self.host.tmux)
        answer = await self._connection.act(script)
        crash_point("job_spawned")
        try:
            words = read_words(answer, first=("started", "claimed", "failed", "no-code", "no-tmux", "unsure"))
        except Transient as error:
            raise Unknown(f"{spec.token}: {error}; look for it") from error
        reason = unhex(words[1]) if len(words) > 1 else ""
        if words[0] == "no-code":
            self._code.forget()
            return None
        if words[0] == "no-tmux":
            raise Refused(f"host {self.host.name}: " + tmux.NOT_INSTALLED.format(where=" there"))
        if words[0] == "failed":
            raise remote_failure(self.host, spec.token, reason)
        if words[0] == "claimed":
            raise Unknown(f"{spec.token}: {there.run_dir} on {self.host.name} is claimed already; look for that job")
        if words[0] == "unsure" or len(words) < 4:
            raise Unknown(f"{spec.token}: host {self.host.name} said {reason or answer!r:.200}; look for it")
        return self._handle(spec, place, words[1:])

    def _handle(self, spec: AttemptSpec, place: RemotePlace, words: Sequence[str]) -> Handle:
        """A handle from pid, start and boot as the host tells them, ``-`` for what is not known."""
        pid, ticks = (int(word) if word.isdecimal() else None for word in words[:2])
        detail = {"pid": pid, "start_ticks": ticks, "boot_id": words[2], "run_dir": place.run_dir(spec)}
        if self.host.tmux and ticks is not None:
            detail["attach"] = tmux.attach_command(spec.token)
        handle = Handle(launcher=SSH, host=self.host.name, job_id=str(pid or ""), detail=detail)
        if ticks is not None:
            self._handles[spec.token] = handle
        return handle


def _make_run_dir(spec: AttemptSpec) -> None:
    try:
        Path(spec.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = Refused if error.errno in _WRONG else Transient
        raise kind(f"{spec.token}: {spec.run_dir} cannot be made: {error.strerror}") from error


def _is_to_be_copied(workdir: str, host: SshHost) -> bool:
    return bool(workdir) and not host.is_shared(workdir) and Path(workdir).is_dir()
