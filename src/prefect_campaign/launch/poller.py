"""Telling the ends of jobs that tell nobody themselves: one task looks at all of a launcher's jobs, time after time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prefect_campaign.launch.record import has_record
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

FAILED_SECONDS = 15.0
"""A question that failed answers others for so long at most."""

Observe = Callable[[Sequence[tuple[AttemptSpec, Handle]]], Awaitable[dict[str, Observation]]]
OnEnd = Callable[[str], None]

log = logging.getLogger("prefect_campaign")


@dataclass
class _Followed:
    spec: AttemptSpec
    handle: Handle
    running: bool = False
    on_end: list[OnEnd] = field(default_factory=list)


class Poller:
    """Calls back once for every job that is over.

    Args:
        name: of the host or queue, for messages.
        observe: looks at jobs.
        seconds: from one look at all jobs to the next, as it is wanted at the time.
        record_seconds: how often running jobs are looked at that have left their exit record here meanwhile; None
            where that cannot be seen without a call.
        longest: the pause is doubled up to so many seconds while no job at all can be seen; None: it never is.
    """

    def __init__(
        self,
        name: str,
        observe: Observe,
        seconds: Callable[[], float],
        *,
        record_seconds: float | None = None,
        longest: float | None = None,
    ) -> None:
        self._name = name
        self._observe = observe
        self._seconds = seconds
        self._record_seconds = record_seconds
        self._longest = longest
        self._followed: dict[str, _Followed] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, spec: AttemptSpec, handle: Handle, on_end: OnEnd) -> None:
        """Call `on_end(token)` once the job is over."""
        self._followed.setdefault(spec.token, _Followed(spec, handle)).on_end.append(on_end)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())

    def close(self) -> None:
        """Tell nothing any more; jobs go on."""
        self._followed.clear()
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()
        self._task = None

    async def _poll(self) -> None:
        await asyncio.sleep(0)  # who follows many at once is done first
        away, looked_at = 0.0, float("-inf")
        while self._followed:
            pause = max(away, self._seconds())
            if time.monotonic() - looked_at >= pause:
                unseen = await self._look(list(self._followed.values()))
                looked_at = time.monotonic()
                if self._longest is not None:
                    away = next_pause(pause, self._seconds(), self._longest, away=unseen) if unseen else 0.0
                pause = max(away, self._seconds())
            elif self._record_seconds is not None:
                await self._look(await self._recorded())
            if not self._followed:
                return
            rest = max(0.0, looked_at + pause - time.monotonic())
            await asyncio.sleep(rest if self._record_seconds is None else min(rest, self._record_seconds))

    async def _look(self, some: Sequence[_Followed]) -> bool:
        """Whether none of them could be seen."""
        if not some:
            return False
        try:
            seen = await self._observe([(one.spec, one.handle) for one in some])
        except Exception:
            log.exception("%s: its jobs could not be looked at", self._name)
            return True
        for token, one in seen.items():
            followed = self._followed.get(token)
            if followed is None:
                continue
            followed.running = one.status == "running"
            if one.status in ("exited", "gone"):
                del self._followed[token]
                for on_end in followed.on_end:
                    on_end(token)
        return all(one.status == "unreachable" for one in seen.values())

    async def _recorded(self) -> list[_Followed]:
        running = [one for one in self._followed.values() if one.running]
        return await asyncio.to_thread(lambda: [one for one in running if has_record(one.spec.run_dir)])


def next_pause(pause: float, usual: float, longest: float, *, away: bool) -> float:
    """Seconds until the next look: doubled each time while nothing can be seen, up to the longest (pure)."""
    return max(usual, min(2 * pause, longest)) if away else usual
