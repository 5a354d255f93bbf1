"""One Prefect server for the session, and for every test a world of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("e2e.world")

from e2e.world import BIN, World, free_port, reachable, until  # noqa: E402 - its assertions explain themselves

DEPLOYMENTS = ("campaign/pilot", "campaign/full", "intervene/answer", "monitor/monitor")
"""In the order in which `campaign up` registers them."""


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the API of a Prefect server that lives as long as the session."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=World(folder, api).environment,  # its pages ask the API at PREFECT_API_URL
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
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


@pytest.fixture(scope="class")
def served(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Iterator[World]:
    """A world for the tests of one class, in which `campaign up` serves the deployments, newly registered."""
    world = World(tmp_path_factory.mktemp("served"), prefect_server)
    for name in DEPLOYMENTS:
        if world.deployment(name):
            world.run(BIN / "prefect", "deployment", "delete", name)
    process = world.start("up", "--monitor-every", "3600")
    try:
        until(
            lambda: process.poll() is not None or world.serves(DEPLOYMENTS[-1]),
            "the deployments are served",
            world.hint,
        )
        assert process.poll() is None, world.hint()
        yield world
    finally:
        world.close()
