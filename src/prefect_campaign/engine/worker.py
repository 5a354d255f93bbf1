"""A helper process that answers JSON lines, one request at a time."""

import asyncio
import json
import sys
from typing import Any


class Worker:
    """Runs ``python -m <module> <argument>``, started with the first request and again if it has died."""

    def __init__(self, module: str, argument: str) -> None:
        self._argv = [sys.executable, "-m", module, argument]
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer; a worker that dies over it is an answer with a ``problem``."""
        async with self._turn:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )
            process = self._process
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            except (BrokenPipeError, ConnectionResetError):
                line = b""
            if not line:
                code = await process.wait()
                return {"problem": f"the analysis process ended with code {code}"}
            answer: dict[str, Any] = json.loads(line)
            return answer

    async def close(self) -> None:
        """End the process; a request in the making is finished first."""
        async with self._turn:
            if self._process is not None and self._process.returncode is None:
                if self._process.stdin is not None:
                    self._process.stdin.close()
                await self._process.wait()
