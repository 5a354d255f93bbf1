"""One Prefect server for the session, and for every test a world of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("e2e.world")

from e2e.world import BIN, World, free_port, reachable, until  # noqa: E402 - its assertions explain themselves


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the API of a Prefect server that lives as long as the session."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=World(folder).environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        api = f"http://127.0.0.1:{port}/api"
        until(
            lambda: process.poll() is not None or reachable(f"{api}/health"),
            "the Prefect server answers",
            lambda: (folder / "server.log").read_text(),
        )
        assert process.poll() is None, (folder / "server.log").read_text()
        yield api
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[World]:
    """A world in which no Prefect server is configured."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def world(offline: World, prefect_server: str) -> World:
    """A world with the session's Prefect server."""
    offline.api = prefect_server
    return offline
