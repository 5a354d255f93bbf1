"""The local launcher: jobs as processes of this machine, in sessions of their own, that outlive their starter."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefect_campaign.launch import tmux as tmux_jobs
from prefect_campaign.launch.gpus.inventory import GpuReader, shared_reader
from prefect_campaign.launch.gpus.numbers import Numbers, WithNumbers
from prefect_campaign.launch.gpus.visible import Shown, reserved_uuids, with_reserve_checked
from prefect_campaign.launch.identity import (
    LOCAL,
    claimed_pid,
    elsewhere,
    find_leader,
    handle_of,
    in_container,
    living_leader,
    processes_of,
)
from prefect_campaign.launch.job_files import PASSING, signal_of, write_script
from prefect_campaign.launch.process import Process, host_name, read_process
from prefect_campaign.launch.record import take_record
from prefect_campaign.launch.script import CLAIM_NAME, RECORD_NAME, SCRIPT_NAME, STDERR_NAME, STDOUT_NAME, job_script
from prefect_campaign.launch.tree import open_pidfd, stop_tree
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

_UNSEEN_SECONDS = 10.0

_left_children: list[subprocess.Popen[bytes]] = []
"""Children of closed launchers: this process stays their parent, so a later start reaps those that ended."""


@dataclass
class _Followed:
    """A living job whose end this launcher will notice."""

    spec: AttemptSpec
    handle: Handle
    loop: asyncio.AbstractEventLoop
    pidfd: int
    child: subprocess.Popen[bytes] | None
    """Set for our own children, which we must reap."""
    on_end: list[Callable[[str], None]] = field(default_factory=list)


class LocalLauncher(WithNumbers):
    """Runs attempts on this machine.

    Args:
        slots: how many jobs may run at once; by default one for each of the CPUs this process may use.
        reserve: GPUs that are kept for people: indices, UUIDs or their beginnings.
        keep_free: how many usable GPUs are always left free for people.
        factor: how long an experiment takes here / on the reference host.
        gpus: reads the GPUs; by default the one reader of this process.
        clock: seconds since the epoch.
        tmux: whether jobs run inside tmux; the handle's `attach` says how a person looks on.
    """

    name = LOCAL

    def __init__(
        self,
        slots: int | None = None,
        *,
        reserve: Collection[str] = (),
        keep_free: int = 0,
        factor: float = 1.0,
        gpus: GpuReader | None = None,
        clock: Clock = system_clock,
        tmux: bool = False,
    ) -> None:
        self.slots = slots or len(os.sched_getaffinity(0))
        self._cores = slots is None
        self.reserve = frozenset(reserve)
        self.keep_free = keep_free
        self.factor = factor
        self._gpus = gpus
        self._numbers = Numbers()
        self._clock = clock
        self._shown = Shown()
        self._tmux = tmux
        self._started: dict[str, Handle] = {}
        self._followed: dict[str, _Followed] = {}

    async def look(self) -> list[HostView]:
        """This machine, with the GPUs that are left to this process; within about 10 s, also if the driver hangs."""
        reading = await asyncio.to_thread((self._gpus or shared_reader()).read)
        host = host_name()
        gpus = self._numbers.on(host, self._shown.usable(reading, os.environ), whole=not reading.problem)
        gpus = with_reserve_checked(gpus, self.reserve, self.keep_free, host)
        return [
            HostView(
                host,
                self.slots,
                gpus,
                gpu_problem=reading.problem,
                factor=self.factor,
                driver=reading.driver,
                cuda=reading.cuda,
                reserve=self.reserve | reserved_uuids(self.reserve, host, gpus),
                keep_free=self.keep_free,
                seen_at=self._clock(),
                cores=self._cores,
            )
        ]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Start `job.sh` in a session of its own; it lives on when this process dies.

        Raises:
            Transient: the machine is short of processes, memory, files or disk.
            Refused: the spec cannot be run here.
            Unknown: the run dir is claimed already, or the new job's identity could not be read.
        """
        return self._start(spec, job_script(spec))

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The job of this attempt by what it left in its run dir, or else by its command line.

        Raises:
            Unknown: it was put into a container, which is not for this launcher to see.
        """
        followed = self._followed.get(spec.token)
        if followed is not None or spec.token in self._started:
            return followed.handle if followed else self._started[spec.token]
        leader = await find_leader(spec)
        if leader is not None:
            return self._handle(spec, leader.pid, leader.start_ticks)
        run_dir = Path(spec.run_dir)
        if in_container(spec) and not (run_dir / RECORD_NAME).exists():
            raise Unknown(f"{spec.token}: may run in a container; name its launcher in the campaign again")
        if (run_dir / CLAIM_NAME).exists() or (run_dir / RECORD_NAME).exists():
            return handle_of(claimed_pid(spec), None)
        return None

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """The record if there is one, else whether the process recorded in the handle lives."""
        return {spec.token: _observe(spec, handle) for spec, handle in handles}

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the whole tree: the session and all descendants, also those in sessions of their own.

        Raises:
            Transient: some process outlived KILL, or the job runs on another machine.
        """
        if elsewhere(handle):
            raise Transient(f"{spec.token}: runs by launcher {handle.launcher} on host {handle.host}; cancel it there")
        leader = living_leader(spec, handle)

        def scan(known: Collection[int]) -> list[Process]:
            return processes_of(spec, handle, known)

        left = await stop_tree(scan, leader.pid if leader else None, grace_seconds)
        if left:
            raise Transient(
                f"{spec.token}: processes {', '.join(map(str, left))} on {host_name()} cannot be ended; "
                "look at them with ps, then cancel again"
            )

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` as soon as no process of the job is left that could still work (pidfd).

        A job that cannot be seen now (another machine, a lost file system) is reported after some seconds, so
        that whoever observes it and watches again does not turn in a tight loop.
        """
        followed = self._followed.get(spec.token)
        with suppress(OSError):
            followed = followed or self._follow_any(spec, handle)
        if followed is not None:
            followed.on_end.append(on_end)
            return
        over = _observe(spec, handle).status in ("exited", "gone")
        asyncio.get_running_loop().call_later(0 if over else _UNSEEN_SECONDS, on_end, spec.token)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt."""
        run_dir = Path(spec.run_dir)
        return run_dir / STDOUT_NAME, run_dir / STDERR_NAME

    def close(self) -> None:
        """Stop watching; jobs go on running and can be found again."""
        for followed in self._followed.values():
            followed.loop.remove_reader(followed.pidfd)
            os.close(followed.pidfd)
            if followed.child is not None:
                _left_children.append(followed.child)
        self._followed.clear()

    def _start(self, spec: AttemptSpec, script: str) -> Handle:
        run_dir = Path(spec.run_dir)
        path = run_dir / SCRIPT_NAME
        try:
            Path(spec.checkpoint_dir).mkdir(parents=True, exist_ok=True)
            run_dir.mkdir(exist_ok=True)
            if (run_dir / CLAIM_NAME).exists():
                raise Unknown(f"{spec.token}: {run_dir} is claimed by a job already; look for that one first")
            write_script(path, script)
            child, pid = _spawn(path) if not self._tmux else (None, tmux_jobs.start(spec.token, run_dir))
        except OSError as error:
            kind = Transient if error.errno in PASSING else Refused
            raise kind(f"{spec.token}: cannot be started in {run_dir}: {error.strerror or error}") from error
        crash_point("job_spawned")
        _left_children[:] = [left for left in _left_children if left.poll() is None]
        try:
            process = read_process(pid)
            if process is None and child is not None:
                raise OSError(errno.ESRCH, "process vanished")
            handle = self._handle(spec, pid, process.start_ticks if process else None)
            if process is not None:
                self._follow(spec, handle, process, child)
        except OSError as error:
            raise Unknown(f"{spec.token}: started as pid {pid}, but then: {error}; look for it") from error
        if self._tmux:  # not our child: a short job may be over before it could be followed
            self._started[spec.token] = handle
        return handle

    def _handle(self, spec: AttemptSpec, pid: int, start_ticks: int | None) -> Handle:
        handle = handle_of(pid, start_ticks)
        if self._tmux and start_ticks is not None:
            handle.detail["attach"] = tmux_jobs.attach_command(spec.token)
        return handle

    def _follow(
        self, spec: AttemptSpec, handle: Handle, process: Process, child: subprocess.Popen[bytes] | None = None
    ) -> _Followed | None:
        # Our own child keeps its pid until it is reaped, so even an ended one can be opened.
        pidfd = os.pidfd_open(process.pid) if child else open_pidfd(process)
        if pidfd is None:
            return None
        loop = asyncio.get_running_loop()
        followed = _Followed(spec, handle, loop, pidfd, child)
        self._followed[spec.token] = followed
        loop.add_reader(pidfd, self._process_ended, spec.token)
        return followed

    def _follow_any(self, spec: AttemptSpec, handle: Handle) -> _Followed | None:
        """Follow `job.sh`, or what is left of the job if only that was killed; None if nothing lives."""
        if elsewhere(handle):
            return None
        leader = living_leader(spec, handle)
        for process in [leader] if leader else processes_of(spec, handle):
            followed = self._follow(spec, handle, process)
            if followed is not None:
                return followed
        return None

    def _process_ended(self, token: str) -> None:
        over = self._followed.pop(token)
        over.loop.remove_reader(over.pidfd)
        os.close(over.pidfd)
        if over.child is not None:
            over.child.wait()  # at once: it has ended, and this reaps it
        rest = None
        with suppress(OSError):  # nothing can be followed: then observe must say what became of it
            if not (Path(over.spec.run_dir) / RECORD_NAME).exists():
                rest = self._follow_any(over.spec, over.handle)
        if rest is not None:
            rest.on_end += over.on_end
            return
        for on_end in over.on_end:
            over.loop.call_soon(on_end, token)


def _spawn(script: Path) -> tuple[subprocess.Popen[bytes], int]:
    nothing = subprocess.DEVNULL
    child = subprocess.Popen(
        ["/bin/sh", str(script)], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
    )
    return child, child.pid


def _observe(spec: AttemptSpec, handle: Handle) -> Observation:
    run_dir = Path(spec.run_dir)
    started_at, problems = None, []
    try:
        # Twice: a job that ends between the two looks has its record by the second one.
        for living_checked in (False, True):
            with suppress(FileNotFoundError):
                started_at = (run_dir / CLAIM_NAME).stat().st_mtime
            record, problem = take_record(run_dir, spec.token)
            if problem:
                problems.append(problem)
            if record is not None:
                return Observation(
                    "exited",
                    exit_code=record.exit_code,
                    signal=signal_of(record.exit_code),
                    started_at=started_at,
                    ended_at=record.ended_at,
                    detail="; ".join(problems),
                )
            if living_checked:
                break
            if elsewhere(handle):
                detail = f"runs by launcher {handle.launcher} on host {handle.host}"
                return Observation("unreachable", started_at=started_at, detail=detail)
            living = living_leader(spec, handle)
            rest = [] if living else processes_of(spec, handle)
            if rest:
                problems.append(f"job.sh was killed, but {len(rest)} of its processes live on")
            if living or rest:
                return Observation("running", started_at=started_at, detail="; ".join(problems))
    except OSError as error:
        return Observation("unreachable", started_at=started_at, detail=f"{run_dir}: {error}")
    problems.append(f"no process and no exit record in {run_dir}")
    return Observation("gone", started_at=started_at, detail="; ".join(problems))
