"""A campaign at its gate, and the part of a Prefect server that waking its flow run needs."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ledgers import prepare

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.setting import Setting, register
from prefect_campaign.ledger import gates
from prefect_campaign.ledger.gates import Waiting
from prefect_campaign.ledger.location import Home

RUN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def setting(home: Home) -> Setting:
    prepare(home)
    return register(
        Campaign(
            name="demo",
            command="true {lr}",
            sweep=Sweep.grid(lr=[1, 2]),
            objective=Objective(metric="acc"),
            workdir="/tmp",
        )
    )


def asked(setting: Setting, waiter: str | None = None, api: str | None = None, answer: str = "") -> gates.Question:
    setting.change(status="at_gate")
    with setting.ledger.write() as connection:
        one = gates.ask(
            connection, setting.row.id, plan_hash=setting.plan.plan_hash, iteration=1, shown="", cost={}, now=1.0
        )
        gates.bind_waiting(connection, one.id, Waiting(RUN if waiter else None, api, waiter))
        if answer:
            gates.answer(connection, one, choice=answer, by="eve", reason="because", channel="ui", now=2.0)
    return one


def on_record(setting: Setting) -> tuple[str | None, str | None]:
    with setting.ledger.read() as connection:
        found = gates.question(connection, setting.row.id, setting.plan.plan_hash)
    assert found
    return found.answer, found.by


class Api(HTTPServer):
    """The part of a Prefect server that waking a flow run needs; says what was asked of it."""

    def __init__(self, state: str, broken: bool = False) -> None:
        self.state, self.broken = state, broken
        self.resumed: list[Any] = []
        self.closed: list[str] = []
        self.since = datetime.now(UTC)
        self.rejections = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        since = self.server.since.isoformat()
        state = {"type": self.server.state, "name": self.server.state.title(), "timestamp": since}
        self._reply({"id": RUN, "flow_id": RUN, "name": "x", "state": state, "state_type": self.server.state})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/filter"):
            self._reply([])
            return
        if self.path.endswith("/set_state"):
            self.server.closed.append(json.loads(body)["state"]["type"])
            self._reply({"status": "ACCEPT", "details": {"type": "accept_details"}, "state": None})
            return
        self.server.resumed.append(json.loads(body or b"{}"))
        if self.server.rejections:
            self.server.rejections -= 1
            details = {"type": "reject_details", "reason": "Run input schema not found"}
            self._reply({"status": "REJECT", "details": details, "state": None})
            return
        self._reply({"status": "ACCEPT", "details": {"type": "accept_details"}, "state": None})

    def _reply(self, document: Any) -> None:
        missing = "csrf" in self.path or self.server.state == "MISSING"
        refused = 403 if self.server.broken else 404 if missing else 200
        self.send_response(refused)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Any]:
    servers = []

    def start(state: str, broken: bool = False) -> Api:
        server = Api(state, broken)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
