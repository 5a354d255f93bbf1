"""A tmux server of a test's own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.launchers import PATIENCE
from programs import needed


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tmux server of the test's own. The folder's path is short: it holds a socket."""
    needed("tmux")
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMUX_TMPDIR", str(folder))
    yield folder
    tmux(folder, "kill-server")


def tmux(sockets: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMUX_TMPDIR": str(sockets)}
    argv = ["tmux", "-L", "campaign", *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
