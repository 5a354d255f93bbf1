"""The engine's own news of containers that ended, heard by a thread and told in the event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prefect_campaign.launch.docker.container import TOKEN
from prefect_campaign.launch.docker.engine import DockerEngine

EVERYTHING = ""
"""Told instead of a token when news may have been missed."""

_BEFORE_SECONDS = 5.0
"""The stream begins a little in the past, so that nothing is lost between the request and its start."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0

log = logging.getLogger("prefect_campaign")


class Events:
    """Listens until it is closed; a stream that breaks is opened again, for as long as it takes.

    Args:
        engine: whose events.
        tell: called in the loop with the token of a container that ended, or `EVERYTHING`.
    """

    def __init__(self, engine: DockerEngine, tell: Callable[[str], None]) -> None:
        self._engine = engine
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._listen, name="docker-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        with suppress(Exception):  # it may be broken already
            if self._stream is not None:
                self._stream.close()

    def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                self._stream = self._engine.events(time.time() - _BEFORE_SECONDS)
                pause = _FIRST_PAUSE
                self._say(EVERYTHING)
                for event in self._stream:
                    if self._closed.is_set():
                        return
                    self._say(_token(event))
            except Exception as error:
                if self._closed.is_set():
                    return
                log.debug("events of the Docker engine at %s: %s", self._engine.where, error)
            self._say(EVERYTHING)
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _say(self, token: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell, token)


def _token(event: Any) -> str:
    """Whose container an event is about."""
    try:
        return str(event["Actor"]["Attributes"][TOKEN])
    except (KeyError, TypeError):
        return EVERYTHING
