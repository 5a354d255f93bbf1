"""The Docker launcher: each attempt in a container of its own on this machine, named by its token."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from prefect_campaign.launch.docker.cancel import end_container
from prefect_campaign.launch.docker.clean import clean
from prefect_campaign.launch.docker.closed import end_closed
from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.observe import observe_containers
from prefect_campaign.launch.docker.settings import DOCKER, DockerSettings, Scope
from prefect_campaign.launch.docker.start import find_container, start_container
from prefect_campaign.launch.docker.watch import Ends
from prefect_campaign.launch.gpus.inventory import GpuReader
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.many import all_at_once
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.script import STDERR_NAME, STDOUT_NAME, job_script
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Refused, Transient
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

LOOK_SECONDS = 10.0
POLL_SECONDS = 30.0
"""How often containers are looked at if no event tells anything."""
CLEAN_SECONDS = 300.0
AT_ONCE = 4
"""Containers that are being made at a time: fewer than requests that go on beside each other, so that one can look."""

log = logging.getLogger("prefect_campaign")


class DockerLauncher:
    """Runs attempts in containers of an engine on this machine.

    Args:
        settings: of the engine and the containers.
        gpus: reads the GPUs; by default the one reader of this process.
        poll_seconds: how often all containers are looked at, besides what the engine tells by itself.
        clock: seconds since the epoch.
    """

    name = DOCKER

    def __init__(
        self,
        settings: DockerSettings,
        *,
        gpus: GpuReader | None = None,
        poll_seconds: float = POLL_SECONDS,
        clock: Clock = system_clock,
    ) -> None:
        self.host = settings
        """What a check of the machine depends on."""
        self.scope: Scope | None = None
        """Whose containers they are, which says what may be cleaned away; None: nothing."""
        self.engine = DockerEngine(settings.client, settings.address)
        self._machine = LocalLauncher(
            settings.slots,
            reserve=settings.reserve,
            keep_free=settings.keep_free,
            factor=settings.factor,
            gpus=gpus,
            clock=clock,
        )
        self.slots = self._machine.slots
        self._poll_seconds = poll_seconds
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._ends: Ends | None = None
        self._checking: asyncio.Future[str] | None = None
        self._cleaned_at = float("-inf")

    def number_by(self, numbers: Numbers) -> None:
        """From now on numbers of GPUs mean what these say."""
        self._machine.number_by(numbers)

    async def look(self) -> list[HostView]:
        """This machine with its GPUs; an engine that does not answer is its problem."""
        (view,), problem = await asyncio.gather(self._machine.look(), self._trouble())
        return [replace(view, launcher=DOCKER, problem=problem or view.problem)]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Start `job.sh` in a container named by the token; the engine itself refuses a second.

        Raises:
            Transient: the engine is not there or failed; nothing runs.
            Refused: the spec, the image or the settings cannot work.
            Unknown: the run dir is claimed or the container is there already, or the engine's answer was lost.
        """
        job_script(spec)
        async with self._turns:
            return await self.engine.beside(start_container, self.engine, self.host, spec, host_name(), self.scope)

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Start many, some at a time; they share the pull of their image."""
        return await all_at_once(self.submit, specs)

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The container by its name, or what its run dir tells of one that is gone.

        Raises:
            Transient: the engine cannot be asked, so that nothing is known.
        """
        return await self.engine.beside(find_container, self.engine, spec, host_name())

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """One request for all containers. Those that are over are saved to their run dirs, and removed.

        An exit that is on record is told also if the engine is away; the others are ``unreachable`` then.
        """
        return await self.engine.beside(observe_containers, self.engine, host_name(), handles)

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End all processes of the container: TERM, then KILL. Believed only when seen.

        Raises:
            Transient: the engine is not there, or the container does not end.
        """
        if handle.launcher != DOCKER or handle.host != host_name():
            raise Transient(f"{spec.token}: runs by launcher {handle.launcher} on host {handle.host}; cancel it there")
        if handle.job_id:
            end = (spec.token, spec.run_dir, handle.job_id, grace_seconds)
            await self.engine.beside(end_container, self.engine, *end)

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once the job is over, as the engine's events tell."""
        if self._ends is None:
            self._ends = Ends(self.engine, self.observe, self._poll_seconds)
        self._ends.follow(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt, which the job writes by itself."""
        run_dir = Path(spec.run_dir)
        return run_dir / STDOUT_NAME, run_dir / STDERR_NAME

    def close(self) -> None:
        """Stop watching; containers run on and can be found again."""
        if self._ends is not None:
            self._ends.close()
        self._ends = None
        self.engine.close()

    async def _trouble(self) -> str:
        """Why nothing can be started now; empty if it can. An engine that hangs is asked only once."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(self.engine.beside(self._check))
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await asyncio.shield(self._checking)
        except TimeoutError:
            where = self.host.address
            return f"the Docker engine at {where} does not answer within {LOOK_SECONDS:g} s; see `docker info`"

    def _check(self) -> str:
        try:
            self.engine.ping()
            self.engine.engine()
            if self.scope is not None and time.monotonic() - self._cleaned_at > CLEAN_SECONDS:
                followed = self._ends.tokens if self._ends else ()
                clean(self.engine, self.scope, followed)
                self._cleaned_at = time.monotonic()
                # By itself: a job may take its time to end, and nobody who looks waits for that.
                threading.Thread(
                    target=end_closed, args=(self.engine, self.scope, followed), name="docker-closed", daemon=True
                ).start()
        except (Transient, Refused, CampaignError) as error:
            return str(error)
        return ""
