"""Running a program of this machine beside everything else, with a limit of time and of what it may say."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from prefect_campaign.model.errors import Refused, Transient

LARGEST_ANSWER = 64 << 20
"""Bytes of stdout or stderr."""

_END_SECONDS = 5.0


async def run_program(argv: Sequence[str], stdin: bytes, seconds: float) -> tuple[int, bytes, bytes]:
    """Run it to its end; exit code, stdout and stderr.

    When time is up it is killed, and what it left in the hands of others (ssh gives its pipes to the shared connection)
    is not waited for.

    Raises:
        TimeoutError: it did not end in time.
        Refused: there is no such program.
        Transient: it could not be started, or said far too much.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, talk = await loop.subprocess_exec(
            lambda: _Talk(loop.create_future()),
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the campaign, which then decides
        )
    except FileNotFoundError:
        raise Refused(f"{argv[0]} is not installed on this machine; install it to use SSH hosts") from None
    except OSError as error:
        raise Transient(f"{argv[0]}: could not be started ({error.strerror})") from None
    try:
        pipe = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        pipe.write(stdin)
        pipe.close()  # once all is written
        async with asyncio.timeout(seconds):
            await asyncio.shield(talk.over)
    finally:
        transport.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.shield(talk.over)
    code = transport.get_returncode()
    if talk.too_much or code is None:
        raise Transient(f"{argv[0]}: more than {LARGEST_ANSWER >> 20} MiB came as an answer")
    return code, bytes(talk.said[1]), bytes(talk.said[2])


class _Talk(asyncio.SubprocessProtocol):
    """Collects what a program says."""

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over = over
        self.said: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.too_much = False
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.said[fd] += data
        if len(self.said[fd]) > LARGEST_ANSWER and self._transport is not None:
            self.too_much = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)
