"""Telling the ends of containers: by the engine's events, and by a slow look as a net below them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.events import EVERYTHING, Events
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

Observe = Callable[[Sequence[tuple[AttemptSpec, Handle]]], Awaitable[dict[str, Observation]]]

_AGAIN_SECONDS = 1.0
"""One whose end was told is looked at again so soon if it could not be seen yet."""

log = logging.getLogger("prefect_campaign")


@dataclass
class _Followed:
    spec: AttemptSpec
    handle: Handle
    on_end: list[Callable[[str], None]] = field(default_factory=list)


class Ends:
    """Calls back once for every job that is over.

    Args:
        engine: where they run.
        observe: looks at jobs.
        poll_seconds: how often all are looked at without any event.
    """

    def __init__(self, engine: DockerEngine, observe: Observe, poll_seconds: float) -> None:
        self._engine = engine
        self._observe = observe
        self._poll_seconds = poll_seconds
        self._followed: dict[str, _Followed] = {}
        self._hot: set[str] = set()
        """Tokens to be looked at now."""
        self._told: set[str] = set()
        """Of those that the engine says have ended, which was not to be seen yet."""
        self._news = asyncio.Event()
        self._events: Events | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def tokens(self) -> frozenset[str]:
        """Of the jobs that are followed."""
        return frozenset(self._followed)

    def follow(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Call `on_end(token)` once, as soon as the job is over."""
        self._followed.setdefault(spec.token, _Followed(spec, handle)).on_end.append(on_end)
        self._hot.add(spec.token)
        self._news.set()
        if self._events is None:
            self._events = Events(self._engine, self._tell)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def close(self) -> None:
        """Tell nothing any more."""
        self._followed.clear()
        if self._events is not None:
            self._events.close()
        self._events = None
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()
        self._task = None

    def _tell(self, token: str) -> None:
        some = set(self._followed) if token == EVERYTHING else {token}
        self._told |= some if token != EVERYTHING else set()
        self._hot |= some
        self._news.set()

    async def _watch(self) -> None:
        while self._followed:
            self._told &= set(self._followed)
            pause = min(_AGAIN_SECONDS, self._poll_seconds) if self._told else self._poll_seconds
            try:
                async with asyncio.timeout(pause):
                    await self._news.wait()
            except TimeoutError:
                self._hot.update(self._followed)
            self._news.clear()
            looked_at = [self._followed[token] for token in self._hot if token in self._followed]
            self._hot.clear()
            if not looked_at:
                continue
            try:
                seen = await self._observe([(one.spec, one.handle) for one in looked_at])
            except Exception:
                log.exception("containers could not be looked at")
                seen = {}
            for token, one in seen.items():
                if one.status in ("exited", "gone") and token in self._followed:
                    for on_end in self._followed.pop(token).on_end:
                        on_end(token)
