"""A helper process that answers JSON lines, one request at a time."""

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

LONGEST_ANSWER = 1 << 20
"""Bytes; a longer line is no answer."""


class Worker:
    """Runs ``python -m <module> <argument>``, started with the first request and again if it has died.

    Args:
        module: what to run.
        argument: its one argument.
        answer_seconds: how long one answer may take.
        close_seconds: how long it may take to end when asked to.
    """

    def __init__(
        self, module: str, argument: str, *, answer_seconds: float = 600.0, close_seconds: float = 30.0
    ) -> None:
        self._argv = [sys.executable, "-m", module, argument]
        self._answer_seconds = answer_seconds
        self._close_seconds = close_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer; whatever goes wrong with that is an answer with a ``problem``.

        A process that did not answer as it should is killed: what it still might say must never be taken for the
        answer to the next request.
        """
        async with self._turn:
            answered = False
            try:
                async with asyncio.timeout(self._answer_seconds):
                    answer = await self._exchange(request)
                answered = True
                return answer
            except TimeoutError:  # an OSError too, so it comes first
                return {"problem": f"the analysis process gave no answer within {self._answer_seconds:g} s"}
            except (OSError, ValueError) as error:
                return {"problem": f"the analysis process: {error}"}
            finally:
                if not answered:
                    self._kill()

    async def close(self) -> None:
        """End the process; a request in the making is finished first, if that does not take too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._close_seconds), self._turn:
                if self._process is not None and self._process.stdin is not None:
                    self._process.stdin.close()
                    await self._process.wait()
        self._kill()

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer.

        Raises:
            OSError: the process could not be started, or died.
            ValueError: it said something else.
        """
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LONGEST_ANSWER,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        line = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        if not line:
            raise OSError(f"ended with code {await process.wait()}")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(f"answered {line[:80]!r}")
        return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
