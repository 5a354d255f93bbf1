"""The Prefect server: the configured one, or an embedded one that this command line starts and stops."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from prefect_campaign.engine.process import identity_alive, identity_of
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Refused, Transient

START_SECONDS = 120
FIRST_PORT = 4200
SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect records task run states and events one by one unless told otherwise, which costs the machine two thirds
    # of what a short experiment does. In batches the UI is at most a second behind; the ledger never is.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # whole seconds: a fraction is cut to 0 and spins
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
}
"""What the embedded server runs with, unless the environment says otherwise."""


def ensure_server(home: Home) -> str:
    """URL of a Prefect API that answers; started here if none is configured.

    The URL is also put into the environment, for every child, and Prefect in this process goes by it from now on.

    Raises:
        Refused: a server is configured but does not answer.
        Transient: the embedded server did not come up.
    """
    url = _configured()
    if url:
        refuse_silent(url)
        os.environ["PREFECT_API_URL"] = url
        return url
    url = os.environ["PREFECT_API_URL"] = _running(home) or _start(home)
    from prefect.context import refresh_global_settings_context

    # Prefect has read its settings by now, and without a URL it starts one more server, for itself, in every process.
    refresh_global_settings_context()
    return url


def known_server(home: Home) -> tuple[str | None, bool]:
    """URL of the Prefect API that a command would use, and whether it is a setting; nothing is started.

    Returns:
        None as the URL if none is configured and no embedded server runs.
    """
    url = _configured()
    return (url, True) if url else (_running(home), False)


def is_embedded(home: Home, api_url: str) -> bool:
    """Whether this is the server that the command line started for this home."""
    return _running(home) == api_url


def refuse_silent(url: str | None) -> None:
    """See that a configured server answers, if one is configured.

    Raises:
        Refused: it does not.
    """
    if url and not answers(url):
        raise Refused(
            f"PREFECT_API_URL {url}: the Prefect server does not answer; start it, or unset the setting "
            "to use an embedded one"
        )


def stop_server(home: Home | None = None) -> str:
    """Stop the embedded server of this home, and only that one; returns what was done, for people."""
    home = home or Home.locate()
    record = _record(home)
    process = _process(record) if record else None
    if process is None:
        return "no embedded Prefect server is running"
    family = [process, *process.children(recursive=True)]
    for one in family:
        one.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    _file(home).unlink(missing_ok=True)
    return f"stopped the Prefect server at {record['url'] if record else ''}"


def ui_url(api_url: str, flow_run_id: str | None = None) -> str:
    """Address of the UI that belongs to an API, or of one flow run in it."""
    base = api_url.removesuffix("/").removesuffix("/api")
    return f"{base}/runs/flow-run/{flow_run_id}" if flow_run_id else base


def answers(url: str) -> bool:
    """Whether a Prefect API answers at `url` within five seconds."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as reply:  # noqa: S310 - user's setting
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _configured() -> str | None:
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    return url


def _file(home: Home) -> Path:
    return home.path / "server.json"


def _record(home: Home) -> dict[str, str] | None:
    try:
        found = json.loads(_file(home).read_text())
        return found if {"url", "process"} <= set(found) else None
    except (OSError, ValueError):
        return None


def _process(record: dict[str, str]) -> psutil.Process | None:
    if not identity_alive(record["process"]):
        return None
    try:
        return psutil.Process(int(record["process"].rsplit(":", 2)[1]))
    except psutil.NoSuchProcess:
        return None


def _running(home: Home) -> str | None:
    record = _record(home)
    return record["url"] if record and _process(record) and answers(record["url"]) else None


def _start(home: Home) -> str:
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = home.path / "server.log"
    environment = {**SERVER_SETTINGS, **os.environ, "PREFECT_API_URL": url}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    _file(home).write_text(json.dumps({"url": url, "process": identity_of(process.pid)}))
    # It takes seconds, on a busy machine a minute, and nothing else is on the screen.
    print(f"starting a Prefect server at {ui_url(url)}; its log: {log}", file=sys.stderr, flush=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers(url):
            return url
        if process.poll() is not None:
            raise Transient(f"the Prefect server ended at once with code {process.returncode}; see {log}")
        time.sleep(0.3)
    raise Transient(f"the Prefect server did not answer within {START_SECONDS} s; see {log}")


def _free_port() -> int:
    """The usual port if nobody has it, else any free one."""
    for port in (FIRST_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
            except OSError:
                continue
    raise Transient("no free TCP port on 127.0.0.1")
