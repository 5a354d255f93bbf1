"""The one folder that holds all of a rig: configuration, data, logs, ports, secrets."""

import fcntl
import json
import os
import pwd
import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# Below the range from which the kernel takes ports for outgoing connections: a port stays free while the rig is down.
PORTS = range(20_000, 32_000)


class CannotError(Exception):
    """A part cannot run here; the message is one line for people."""


@dataclass(frozen=True)
class Home:
    """A folder, and what is decided once for all that runs in it."""

    path: Path

    @classmethod
    def locate(cls) -> "Home":
        """`RIG_HOME`, or `.rig` in the checkout."""
        return cls(Path(os.environ.get("RIG_HOME") or CHECKOUT / ".rig").resolve())

    @property
    def env_file(self) -> Path:
        """`NAME=value` lines for tests and people: `set -a; . .rig/env`."""
        return self.path / "env"

    @property
    def short_name(self) -> str:
        """The same for the same folder; fits the name of a network interface."""
        return "rig" + sha256(str(self.path).encode()).hexdigest()[:8]

    def make(self) -> None:
        """The folder, which the services' own users can reach.

        Raises:
            CannotError: they cannot, because of a folder above; or it is another user's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() not in (0, self.path.stat().st_uid):
            raise CannotError(f"{self.path} belongs to {self.path.owner()}: run this as root, or set RIG_HOME")
        self.path.chmod(0o755)
        closed = [folder for folder in self.path.parents if not folder.stat().st_mode & 0o001]
        if closed and os.geteuid() == 0:
            raise CannotError(f"{closed[-1]} is closed to other users: set RIG_HOME to a folder such as /var/tmp/rig")

    def folder(self, name: str, user: str = "", mode: int = 0o755) -> Path:
        """A folder in it, which belongs to `user` if we are root."""
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        give(made, user)
        return made

    def write(self, name: str, text: str, user: str = "", mode: int = 0o644) -> Path:
        """A file in it; replaced by rename, so that nobody reads half of it."""
        path = self.path / name
        beside = path.with_name(path.name + ".new")
        beside.unlink(missing_ok=True)
        beside.touch(mode=0o600)
        beside.write_text(text)
        give(beside, user)
        beside.chmod(mode)
        beside.replace(path)
        return path

    def port(self, name: str) -> int:
        """The port of this name: free when first asked for, the same ever after."""
        if name in (known := self._ports()):
            return known[name]
        with self._locked("ports.lock"):
            if name not in (known := self._ports()):
                known[name] = _free_port(set(known.values()))
                self.write("ports.json", json.dumps(known, indent=1) + "\n")
            return known[name]

    def secret(self, name: str) -> str:
        """A password, made when first asked for."""
        path = self.folder("secrets", mode=0o700) / name
        if not path.exists():
            self.write(f"secrets/{name}", secrets.token_hex(16), mode=0o600)
        return path.read_text()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        with self._locked("lock"):
            yield

    def _ports(self) -> dict[str, int]:
        path = self.path / "ports.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.path / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def give(path: Path, user: str) -> None:
    """Let `user` own it, if one is named and we may."""
    if user and os.geteuid() == 0:
        owner = pwd.getpwnam(user)
        os.chown(path, owner.pw_uid, owner.pw_gid)


def caller() -> str:
    """The person behind sudo, or who runs this."""
    with suppress(KeyError):
        return pwd.getpwnam(os.environ.get("SUDO_USER", "")).pw_name
    return pwd.getpwuid(os.geteuid()).pw_name


def _free_port(taken: set[int]) -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in taken:
                return port
