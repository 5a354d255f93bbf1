"""A programmable Docker engine: a small HTTP server on a Unix socket that speaks the part of the Engine API we use.

Its containers are processes of this machine, so that jobs are real; what only a kernel can do (namespaces, limits) is
not there. A request can be made to fail, to be carried out without an answer, or to hang.
"""

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fake_docker_http import Handler, Server

from prefect_campaign.launch.process import all_processes, environment, with_descendants

NEVER = "0001-01-01T00:00:00Z"
INFO = {
    "ID": "fake",
    "ServerVersion": "28.0.0",
    "NCPU": 8,
    "MemTotal": 64 << 30,
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "extfs"]],
    "SecurityOptions": [],
    "Runtimes": {"runc": {}},
    "OSType": "linux",
}


@dataclass
class Fault:
    """What becomes of the next requests that it fits."""

    method: str
    path: str
    """A pattern that is searched for."""
    status: int = 0
    """Answered with this and the message; 0: no answer at all."""
    message: str = ""
    carried_out: bool = False
    times: int = 1


@dataclass
class Container:
    """One container."""

    id: str
    name: str
    config: dict[str, Any]
    image: str
    status: str = "created"
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started: str = NEVER
    finished: str = NEVER
    made: int = field(default_factory=lambda: int(time.time()))
    process: subprocess.Popen[bytes] | None = None
    said: bytes = b""

    def inspected(self) -> dict[str, Any]:
        state = {
            "Status": self.status,
            "Running": self.status == "running",
            "ExitCode": self.exit_code,
            "OOMKilled": self.oom_killed,
            "Error": self.error,
            "StartedAt": self.started,
            "FinishedAt": self.finished,
        }
        told = {"Id": self.id, "Name": f"/{self.name}", "Image": self.image, "State": state}
        return {**told, "Config": {**self.config, "Tty": False}, "HostConfig": self.config["HostConfig"]}

    def listed(self) -> dict[str, Any]:
        told = {"Id": self.id, "Names": [f"/{self.name}"], "State": self.status, "Created": self.made}
        return {**told, "Labels": self.config["Labels"], "Mounts": self.config["HostConfig"]["Mounts"]}

    def processes(self) -> set[int]:
        """Everything in it."""
        mark = b"FAKE_CONTAINER=" + self.id.encode()
        table = all_processes()
        return {pid for pid in table if table[pid].alive and mark in environment(pid)}


class FakeEngine:
    """The engine; `start` and `stop` it as often as you like, its containers stay.

    Args:
        folder: for its socket; a short path.
    """

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "d.sock"
        self.url = f"unix://{self.socket}"
        self.info: dict[str, Any] = dict(INFO)
        self.images: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, dict[str, Any]] = {}
        """Images that can be pulled."""
        self.on_pull: Callable[[str], object] = lambda name: None
        """Called within every pull."""
        self.containers: dict[str, Container] = {}
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        """``METHOD path`` of every request."""
        self.execs: dict[str, tuple[Container, list[str]]] = {}
        self.streams: list[Any] = []
        self.lock = threading.RLock()
        self._server: Server | None = None

    def add_image(self, name: str, *, pulled: bool = True, digests: tuple[str, ...] = ()) -> None:
        """An image that is there, or that can be pulled."""
        image = {"Id": f"sha256:{abs(hash(name)):064x}"[:71], "RepoDigests": list(digests)}
        (self.images if pulled else self.registry)[name] = image

    def start(self) -> None:
        """Answer from now on."""
        self.socket.unlink(missing_ok=True)
        handler = type("ForThis", (Handler,), {"engine": self})
        self._server = Server(str(self.socket), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self, *, live_restore: bool = True) -> None:
        """Go away; without live restore the containers end first."""
        if not live_restore:
            for one in list(self.containers.values()):
                self.signal(one, signal.SIGTERM)
        self.cut()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._server.connections):
                with suppress(OSError):
                    connection.shutdown(2)
        self._server = None
        self.socket.unlink(missing_ok=True)

    def cut(self) -> None:
        """Break all event streams."""
        with self.lock:
            streams, self.streams = self.streams, []
        for one in streams:
            with suppress(OSError):
                one.connection.shutdown(2)

    def end_all(self) -> None:
        """Kill what runs in containers."""
        for one in self.containers.values():
            for pid in one.processes():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def fail(self, method: str, path: str, status: int = 0, message: str = "", **more: Any) -> None:
        """Make the next request that fits fail."""
        self.faults.append(Fault(method, path, status, message, **more))

    def found(self, name: str) -> Container | None:
        with self.lock:
            return next((c for c in self.containers.values() if name in (c.id, c.name)), None)

    # -- what the engine does -----------------------------------------------------------------------------------

    def create(self, name: str, config: dict[str, Any]) -> Container:
        with self.lock:
            number = secrets.token_hex(32)  # other engines' containers are on this machine too
            made = Container(number, name, config, self.images[config["Image"]]["Id"])
            self.containers[number] = made
            return made

    def stranger(self, name: str) -> Container:
        """A container of somebody else."""
        return self.create(name, {"Image": next(iter(self.images)), "Labels": {}, "HostConfig": {"Mounts": []}})

    def run(self, one: Container) -> None:
        argv = [*one.config["Entrypoint"], *one.config["Cmd"]]
        for mount in one.config["HostConfig"]["Mounts"]:
            if mount["Target"] != mount["Source"]:
                argv = [word.replace(mount["Target"], mount["Source"]) for word in argv]
        given = dict(item.split("=", 1) for item in one.config["Env"])
        variables = {"PATH": os.environ["PATH"], **given, "FAKE_CONTAINER": one.id}
        nothing = subprocess.DEVNULL
        one.process = subprocess.Popen(
            argv, env=variables, cwd="/", stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
        one.status, one.started = "running", _now()
        threading.Thread(target=self._reap, args=(one,), daemon=True).start()

    def signal(self, one: Container, number: int) -> None:
        """As to the first process of a container: KILL ends them all, and none sees another's end."""
        first = [one.process.pid] if one.process else []
        for pid in [*first, *(one.processes() - set(first) if number == signal.SIGKILL else [])]:
            with suppress(OSError):
                os.kill(pid, number)

    def inside(self, one: Container, argv: list[str]) -> None:
        """Our script that signals processes; it would reach every process of this machine if it were run."""
        name, leader = argv[4], int(argv[5] or 0)
        table = all_processes()
        handed = {pid for pid, p in table.items() if p.parent == leader} if name == "TERM" else set()
        doomed = with_descendants(table, one.processes()) - {leader, *handed}
        for pid in doomed:
            with suppress(OSError):
                os.kill(pid, getattr(signal, f"SIG{name}"))

    def _reap(self, one: Container) -> None:
        assert one.process is not None
        code = one.process.wait()
        for pid in one.processes():  # its namespace goes with its first process
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with self.lock:
            one.status, one.finished = "exited", _now()
            one.exit_code = code if code >= 0 else 128 - code
        self.tell("die", one)

    def tell(self, what: str, one: Container) -> None:
        event = {"Type": "container", "Action": what, "Actor": {"ID": one.id, "Attributes": one.config["Labels"]}}
        with self.lock:
            streams = list(self.streams)
        for stream in streams:
            with suppress(OSError):
                stream.chunk(json.dumps(event).encode() + b"\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
