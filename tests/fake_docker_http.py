"""The fake Docker engine's HTTP: requests of the Engine API, and how they are made to fail."""

import json
import os
import re
import signal
import socketserver
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from fake_docker import Container, FakeEngine, Fault


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self.connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away: no news."""


class Handler(BaseHTTPRequestHandler):
    engine: "FakeEngine"
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_DELETE = do_GET  # noqa: N815

    def answer(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/v[0-9.]+(?=/)", "", parts.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"null") if length else None
        self.engine.asked.append(f"{self.command} {path}")
        fault = self._fault(path)
        if fault is not None and not fault.carried_out:
            return self.say(fault.status, {"message": fault.message}) if fault.status else self.hang_up()
        if fault is not None:
            self.say = lambda *_: None  # type: ignore[method-assign]
        for method, pattern, act in ROUTES:
            found = re.fullmatch(pattern, path)
            if method == self.command and found:
                act(self, *found.groups())
                break
        else:
            self.say(404, {"message": "page not found"})
        if fault is not None:
            self.hang_up()
        return None

    def _fault(self, path: str) -> "Fault | None":
        with self.engine.lock:
            for fault in self.engine.faults:
                if fault.method == self.command and re.search(fault.path, path):
                    fault.times -= 1
                    if not fault.times:
                        self.engine.faults.remove(fault)
                    return fault
        return None

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def say(self, status: int, told: Any = None) -> None:
        data = b"" if told is None else told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    # -- requests -----------------------------------------------------------------------------------------------

    def ping(self) -> None:
        self.say(200, b"OK")

    def version(self) -> None:
        self.say(200, {"ApiVersion": "1.45", "Version": "28.0.0", "MinAPIVersion": "1.24"})

    def state(self) -> None:
        self.say(200, self.engine.info)

    def list(self) -> None:
        wanted = json.loads(self.query.get("filters", "{}")).get("label", [])
        with self.engine.lock:
            found = [c.listed() for c in self.engine.containers.values()]
        self.say(200, [one for one in found if all(_has(one["Labels"], label) for label in wanted)])

    def create(self) -> None:
        config, name = self.body, self.query["name"]
        size = config["HostConfig"].get("StorageOpt")
        if config["Image"] not in self.engine.images:
            return self.say(404, {"message": f"No such image: {config['Image']}"})
        if size and self.engine.info.get("no pquota"):
            told = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
            return self.say(500, {"message": told})
        for mount in config["HostConfig"]["Mounts"]:
            if not os.path.exists(mount["Source"]):
                told = f'invalid mount config for type "bind": bind source path does not exist: {mount["Source"]}'
                return self.say(400, {"message": told})
        with self.engine.lock:
            if self.engine.found(name):
                return self.say(409, {"message": f'Conflict. The container name "/{name}" is already in use'})
            made = self.engine.create(name, config)
        return self.say(201, {"Id": made.id, "Warnings": []})

    def inspect(self, name: str) -> None:
        self._with(name, lambda one: self.say(200, one.inspected()))

    def begin(self, name: str) -> None:
        def start(one: "Container") -> None:
            with self.engine.lock:
                if one.config["HostConfig"].get("DeviceRequests") and not self.engine.info.get("gpus"):
                    told = 'could not select device driver "" with capabilities: [[gpu]]'
                    return self.say(500, {"message": told})
                fresh = one.status == "created"
                if fresh:
                    self.engine.run(one)
            return self.say(204 if fresh else 304)

        self._with(name, start)

    def kill(self, name: str) -> None:
        def kill(one: "Container") -> None:
            if one.status != "running":
                return self.say(409, {"message": f"container {one.id} is not running"})
            self.engine.signal(one, getattr(signal, self.query.get("signal", "SIGKILL")))
            return self.say(204)

        self._with(name, kill)

    def logs(self, name: str) -> None:
        frame = b"\x01\0\0\0"
        self._with(name, lambda one: self.say(200, frame + len(one.said).to_bytes(4, "big") + one.said))

    def remove(self, name: str) -> None:
        def remove(one: "Container") -> None:
            with self.engine.lock:
                if one.status == "running" and self.query.get("force") not in ("1", "True"):
                    return self.say(409, {"message": "cannot remove container: container is running"})
                self.engine.containers.pop(one.id, None)
            self.engine.signal(one, signal.SIGKILL)
            self.engine.tell("destroy", one)
            return self.say(204)

        self._with(name, remove)

    def exec_create(self, name: str) -> None:
        def make(one: "Container") -> None:
            if one.status != "running":
                return self.say(409, {"message": f"container {one.id} is not running"})
            number = f"e{len(self.engine.execs)}"
            self.engine.execs[number] = one, self.body["Cmd"]
            return self.say(201, {"Id": number})

        self._with(name, make)

    def exec_start(self, number: str) -> None:
        self.engine.inside(*self.engine.execs[number])
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def image(self, name: str) -> None:
        found = self.engine.images.get(name) or self.engine.images.get(f"{name}:latest")
        self.say(200, found) if found else self.say(404, {"message": f"No such image: {name}"})

    def pull(self) -> None:
        name = self.query["fromImage"] + (f":{self.query['tag']}" if self.query.get("tag") else "")
        if name not in self.engine.registry:
            return self.say(404, {"message": f"pull access denied for {name}, repository does not exist"})
        self.engine.on_pull(name)
        self.engine.images[name] = self.engine.registry[name]
        return self.say(200, {"status": "done"})

    def events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with self.engine.lock:
            self.engine.streams.append(self)
        while self in self.engine.streams:
            time.sleep(0.02)
        self.close_connection = True

    def _with(self, name: str, act: Callable[["Container"], None]) -> None:
        one = self.engine.found(name)
        if one is None:
            self.say(404, {"message": f"No such container: {name}"})
        else:
            act(one)


def _has(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/_ping", Handler.ping),
    ("GET", "/version", Handler.version),
    ("GET", "/info", Handler.state),
    ("GET", "/events", Handler.events),
    ("GET", "/containers/json", Handler.list),
    ("POST", "/containers/create", Handler.create),
    ("GET", "/containers/([^/]+)/json", Handler.inspect),
    ("POST", "/containers/([^/]+)/start", Handler.begin),
    ("POST", "/containers/([^/]+)/kill", Handler.kill),
    ("GET", "/containers/([^/]+)/logs", Handler.logs),
    ("DELETE", "/containers/([^/]+)", Handler.remove),
    ("POST", "/containers/([^/]+)/exec", Handler.exec_create),
    ("POST", "/exec/([^/]+)/start", Handler.exec_start),
    ("GET", "/images/(.+)/json", Handler.image),
    ("POST", "/images/create", Handler.pull),
]
