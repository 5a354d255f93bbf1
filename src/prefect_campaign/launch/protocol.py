"""What every launcher can do: submit, find by token, observe many, cancel, tell the end, show logs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.records import AttemptSpec, Handle, Observation


class Launcher(Protocol):
    """Runs attempts somewhere.

    Every call may raise `Transient` (it did not happen, try again), `Refused` (the spec is wrong) or `Unknown`
    (it may have happened: `find` first). The job's own exit record is the only proof of success.
    """

    name: str
    slots: int
    """How many jobs without GPUs may run at once."""

    async def look(self) -> list[HostView]:
        """Its hosts with their GPUs and who uses them, as they are now.

        A host or a GPU that cannot be read is in it with its `problem`; the others are not held up by it.
        """
        ...

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Start the attempt once.

        Raises:
            Transient: nothing was started; it may work later.
            Refused: this spec can never be started; the message says why.
            Unknown: something was started before, now or by somebody else: look with `find`.
        """
        ...

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """The job of this attempt, running or over, though its handle was never recorded; None if there is none."""
        ...

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """Look at many jobs at once.

        Returns:
            Token -> what was seen of that job. One job that cannot be read never spoils the others.
        """
        ...

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the job and all its processes: TERM, then KILL after `grace_seconds`. Already over is fine.

        Raises:
            Transient: some process could not be ended.
        """
        ...

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once, in the running event loop, as soon as the job is over.

        How it ended is for `observe` to say. A job that is over already is told at the next turn of the loop.
        """
        ...

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt; they need not exist yet."""
        ...

    def close(self) -> None:
        """Stop watching and free what is held. Jobs go on running."""
        ...


@runtime_checkable
class StartsMany(Launcher, Protocol):
    """A launcher that starts many attempts sooner together than one after the other."""

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Start many attempts.

        Returns:
            Token -> its handle, or the error that `submit` would have raised for it.
        """
        ...


@runtime_checkable
class Queue(StartsMany, Protocol):
    """A launcher that hands jobs to a scheduler, which gives them GPUs and processors when it is their turn.

    Its `look` is one view with `HostView.queue` set. It asks the scheduler about all its jobs at once, however many
    they are. A job that the scheduler runs again by itself (requeue, preemption) is the same job.
    """

    poll_seconds: float
    """How old an answer of the scheduler may be that `observe` and `watch` go by; set by who watches a batch."""

    @property
    def unsettled(self) -> bool:
        """Whether something is in doubt that only another look by this process, in some seconds, can settle."""
        ...

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Start many attempts with as few calls as can be.

        Returns:
            Token -> its handle, or the error that `submit` would have raised for it.
        """
        ...
