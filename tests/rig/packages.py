"""Debian packages, without the services that come with them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rig.home import CannotError, Home

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = (
    "#!/bin/sh\n# Written by prefect-campaign's rig while it installs packages: their services stay down.\nexit 101\n"
)


def install(home: Home, packages: set[str]) -> None:
    """Install what is missing.

    Raises:
        CannotError: no root, no apt, or apt failed.
    """
    names = " ".join(sorted(packages))
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CannotError(f"needs root once: apt-get install --no-install-recommends {names}")
    argv = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *sorted(packages)]
    log = home.path / "apt.log"
    with _no_services(), log.open("w") as file:
        for words in (argv, ["apt-get", "update", "--quiet"], argv):
            done = subprocess.run(
                words,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                check=False,
            )
            if done.returncode == 0 and words is argv:
                return
    raise CannotError(f"apt-get cannot install {names}: see {log}")


@contextmanager
def _no_services() -> Iterator[None]:
    # The way that Debian has for it; whoever has a policy already keeps it.
    ours = not POLICY.exists() or POLICY.read_text() == POLICY_TEXT
    if ours:
        POLICY.write_text(POLICY_TEXT)
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)
