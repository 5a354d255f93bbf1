"""Git repositories for tests to work in: whoever runs them needs no settings of git, and has none in the way."""

import os
import subprocess
from pathlib import Path

import pytest

ALONE = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
# Git fetches a submodule from another folder only if told that it may.
WHO = ("-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str) -> str:
    """Run git there; returns what it says."""
    argv = ["git", "-C", str(folder), *WHO, *words]
    done = subprocess.run(argv, env={**os.environ, **ALONE}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def head(folder: Path) -> str:
    """The commit that is checked out."""
    return git(folder, "rev-parse", "HEAD")


def track(folder: Path, *files: str) -> None:
    """Make the folder a repository that knows these files, or all of them, and has no commit yet."""
    git(folder, "init", "-q")
    git(folder, "add", "--", *(files or ["."]))


def repository(folder: Path, *files: str) -> str:
    """Make the folder a repository with one commit, of these files or of all; returns the commit."""
    track(folder, *files)
    git(folder, "commit", "-qm", "first")
    return head(folder)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A repository with one commit, of `train.py`."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "train.py").write_text("1\n")
    repository(folder)
    return folder
