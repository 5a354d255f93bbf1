"""Programs that some tests need: without one the test is skipped, and the reason names the Debian package."""

import os
import shutil

import pytest

PACKAGES = {
    "chromium": "chromium",
    "gcc": "gcc libc6-dev",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "tmux": "tmux",
}
PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
"""Daemons are not on the PATH of everybody."""


def needed(*names: str) -> str:
    """Path of the first of these programs; the test is skipped unless all are there."""
    found = {name: shutil.which(name, path=PLACES) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        lacks(missing, *dict.fromkeys(PACKAGES[name] for name in missing))
    return str(found[names[0]])


def lacks(missing: list[str], *packages: str) -> None:
    """Skip the test, as these packages are not installed."""
    pytest.skip(f"needs {', '.join(missing)}: apt-get install {' '.join(packages)}")
