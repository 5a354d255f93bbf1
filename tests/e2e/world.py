"""A home of its own for one test, and the real `campaign` and `prefect` commands in it."""

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml

PATIENCE = 150.0
"""Seconds until a test gives up on anything; nothing is ever waited for that long on a healthy machine."""

BIN = Path(sys.executable).parent
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr, line by line."""
        return self.err.splitlines()


@dataclass
class World:
    """One user's machine: HOME, PREFECT_HOME and CAMPAIGN_HOME in `folder`."""

    folder: Path
    api: str | None = None
    """URL of the Prefect API; None: not configured."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "user").mkdir()

    @property
    def home(self) -> Path:
        return self.folder / "campaigns"

    @property
    def environment(self) -> dict[str, str]:
        """Nothing is inherited but the way to the programs."""
        mine = {
            "PATH": os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath))),
            "LANG": "C.UTF-8",
            "HOME": str(self.folder / "user"),
            "PREFECT_HOME": str(self.folder / "user" / ".prefect"),
            "CAMPAIGN_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        return {**mine, **({"PREFECT_API_URL": self.api} if self.api else {})}

    # -- commands -----------------------------------------------------------------------------------------------

    def run(self, *argv: str | Path, timeout: float = PATIENCE, **env: str) -> Done:
        """Run a program to its end, with nothing on stdin."""
        words = tuple(map(str, argv))
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(words, done.returncode, done.stdout, done.stderr)

    @contextmanager
    def driving(self, *argv: str | Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A driver of the crash tests in the background, from where it says that it is ready; killed in the end."""
        with subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=self.folder,
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield process
            finally:
                process.kill()

    def campaign(self, *argv: str | Path, code: int = 0, **env: str) -> Done:
        """Run `campaign ...` and see that it exits with `code`."""
        done = self.run(BIN / "campaign", *argv, timeout=PATIENCE, **env)
        assert done.code == code, f"campaign {' '.join(map(str, argv))}: exit {done.code}\n{done.out}\n{done.err}"
        return done

    def python(self, code: str, **env: str) -> Done:
        """Run Python code and see that it succeeds."""
        done = self.run(sys.executable, "-c", code, timeout=PATIENCE, **env)
        assert done.code == 0, f"{code}\nexit {done.code}\n{done.out}\n{done.err}"
        return done

    def start(self, *argv: str | Path, **env: str) -> subprocess.Popen[bytes]:
        """Start `campaign ...` in the background; what it says goes into ``<verb>.log``."""
        with (self.folder / f"{argv[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / "campaign"), *map(str, argv)],
                cwd=self.folder,
                env={**self.environment, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self, verb: str) -> str:
        """What a started command has said so far."""
        return (self.folder / f"{verb}.log").read_text()

    # -- specs and the ledger -----------------------------------------------------------------------------------

    def spec(self, name: str = "tiny", /, **changes: Any) -> Path:
        """Write a spec of two methods, 1 (baseline) and 2, each of which prints its own number as its result.

        Its pilot and its full phase have two experiments each. A change to None leaves the key out.
        """
        plain: Json = {
            "name": name,
            "command": "sh -c 'echo final/x={method}'",
            "sweep": {"grid": {"method": [1, 2], "seed": [0]}},
            "objective": {"metric": "final/x"},
            "groups": {"baseline": {"method": [1]}},
            "tracking": {"wandb": "off"},
            "policy": {"max_parallel": 2, "pilot_retries": 0, "full_retries": 0},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in {**plain, **changes}.items() if v is not None}))
        return path

    def rows(self, sql: str, *values: Any) -> list[Json]:
        """Rows of the ledger; none while there is no ledger."""
        path = self.home / "ledger.db"
        if not path.is_file():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in connection.execute(sql, values)]
            except sqlite3.OperationalError:
                return []  # the tables are not made yet

    def attempts(self, name: str | None = None) -> list[tuple[str, int, str]]:
        """(exp_id, attempt, state) of every attempt ever made, oldest first; of one campaign or of all."""
        return [(r["exp_id"], r["attempt"], r["state"]) for r in self._of("attempts", name)]

    def gates(self, name: str | None = None) -> list[Json]:
        """Every question ever asked, oldest first; of one campaign or of all."""
        return self._of("approvals", name)

    def _of(self, table: str, name: str | None) -> list[Json]:
        mine = "campaign_id IN (SELECT id FROM campaigns WHERE name = coalesce(?, name))"
        return self.rows(f"SELECT * FROM {table} WHERE {mine} ORDER BY id", name)

    def row(self, name: str = "tiny") -> Json:
        """The newest round of a campaign."""
        return self.rows("SELECT * FROM campaigns WHERE name = ? ORDER BY round DESC LIMIT 1", name)[0]

    def states(self, stage: str, name: str = "tiny") -> list[str]:
        """States of the experiments of one stage of the newest round."""
        sql = "SELECT state FROM experiments WHERE campaign_id = ? AND stage = ? ORDER BY position"
        return [r["state"] for r in self.rows(sql, self.row(name)["id"], stage)]

    def tree(self) -> dict[str, str]:
        """Everything in the folder, by path, with a digest of each file; SQLite's own side files apart."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.name.endswith((".db-wal", ".db-shm")):
                continue
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path.relative_to(self.folder))] = content
        return found

    # -- the Prefect server -------------------------------------------------------------------------------------

    def prefect(self, path: str, body: Json | None = None) -> Any:
        """GET, or with a body POST, something of the Prefect API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}{path}", data, {"Content-Type": "application/json"})

        def reply() -> list[bytes]:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return [answer.read()]
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                return []  # the server's database is busy just now; Prefect's own client asks again, too

        (text,) = until(reply, f"{path} is answered", self.hint)
        return json.loads(text) if text else None

    def state(self, run_id: str) -> str:
        """Name of the state of a flow run, e.g. ``Paused``."""
        return str(self.prefect(f"/flow_runs/{run_id}")["state"]["name"])

    def inside(self, run_id: str) -> list[tuple[str, str]]:
        """Name and state of every flow and task run inside a flow run, however deep."""
        its_own: Json = {"flow_runs": {"id": {"any_": [run_id]}}}
        found = [(t["name"], t["state"]["name"]) for t in self.prefect("/task_runs/filter", its_own)]
        for run in self.prefect("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}}):
            found += [(run["name"], run["state"]["name"]), *self.inside(run["id"])]
        return found

    def deployment(self, name: str) -> Json:
        """The deployment ``flow/name``; empty if there is none."""
        flow, _, own = name.partition("/")
        body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [own]}}}
        found = self.prefect("/deployments/filter", body)
        return found[0] if found else {}

    def serves(self, name: str) -> bool:
        """Whether somebody serves the deployment."""
        return bool(self.deployment(name).get("status") == "READY")

    def trigger(self, name: str, *params: str) -> str:
        """Trigger a deployment by Prefect's own command; returns the id of the flow run."""
        words = [word for param in params for word in ("--param", param)]
        done = self.run(BIN / "prefect", "deployment", "run", name, *words)
        assert done.code == 0, done.out + done.err
        runs = self.prefect("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20})
        deployed = self.deployment(name)["id"]
        return next(str(r["id"]) for r in runs if r["deployment_id"] == deployed)

    def flow_processes(self, run_id: str) -> list[int]:
        """Pids of the processes that Prefect started for this flow run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == run_id.replace("-", ""):
                    found.append(process.pid)
        return found

    def question(self, name: str | None = None, after: int = 0) -> Json:
        """Wait until a question newer than `after` is put, and its flow run waits for the answer."""

        def waiting() -> Json | None:
            asked = [g for g in self.gates(name) if g["id"] > after and g["answer"] is None and g["flow_run_id"]]
            there = bool(asked) and self.state(asked[-1]["flow_run_id"]) in ("Paused", "Suspended")
            return asked[-1] if there else None

        return until(waiting, "the gate waits", self.hint)

    def hint(self) -> str:
        """For a test that gave up: what the commands in the background have said."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process of this world; its environment tells which they are."""
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for other in psutil.process_iter():
            with suppress(psutil.Error):
                if other.environ().get("CAMPAIGN_HOME") == str(self.home) and other.pid != os.getpid():
                    other.kill()


def until(look: Callable[[], T | None], what: str, hint: Callable[[], str] = str, patience: float = PATIENCE) -> T:
    """Wait until `look` returns something true, and return that."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}\n{hint()}"
        time.sleep(0.2)
    return found


def free_port() -> int:
    """A TCP port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reachable(url: str) -> bool:
    """Whether something answers at `url`."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
