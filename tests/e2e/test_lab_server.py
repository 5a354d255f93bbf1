"""The settings of `deployments/compose.yaml`, on a real PostgreSQL and Redis: a campaign from spec to results."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from e2e.world import BIN, World, free_port, reachable, until
from ledgers import new_database
from sqlalchemy import create_engine, make_url, text

pytestmark = pytest.mark.postgres

COMPOSE = Path(__file__).parents[2] / "deployments" / "compose.yaml"


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    """What the compose file gives the server, with this machine's own PostgreSQL and Redis."""
    redis = os.environ.get("CAMPAIGN_TEST_REDIS_URL")
    if not redis:
        pytest.skip("needs a Redis: make rig PARTS=redis, or CAMPAIGN_TEST_REDIS_URL")
    at = make_url(redis)
    written = yaml.safe_load(COMPOSE.read_text())["x-server"]
    with new_database(empty=True) as database:
        mine = {
            "PREFECT_API_DATABASE_CONNECTION_URL": _with_driver(database, "postgresql+asyncpg"),
            "PREFECT_REDIS_MESSAGING_HOST": str(at.host),
            "PREFECT_REDIS_MESSAGING_PORT": str(at.port),
            "PREFECT_REDIS_MESSAGING_PASSWORD": str(at.password or ""),
            "PREFECT_SERVER_DOCKET_URL": redis.rsplit("/", 1)[0] + "/1",
        }
        assert mine.keys() <= written.keys()
        yield {**written, **mine}


@pytest.fixture
def server(tmp_path: Path, settings: dict[str, str]) -> Iterator[str]:
    """The server and its services as two processes, as in the compose file."""
    folder = tmp_path / "server"
    folder.mkdir()
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {**World(folder, api).environment, **settings}
    server = [BIN / "prefect", "server", "start", "--no-services", "--host", "127.0.0.1", "--port", str(port)]
    services = [BIN / "prefect", "server", "services", "start"]
    started = []
    try:
        with (folder / "log").open("wb") as log:
            for command in (server, services):
                process = subprocess.Popen(
                    list(map(str, command)), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                started.append(process)
                until(
                    lambda p=process: p.poll() is not None or reachable(f"{api}/health"),
                    "the server answers",
                    (folder / "log").read_text,
                )
                assert process.poll() is None, (folder / "log").read_text()
        yield api
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_campaign_with_its_ledger_in_postgresql(tmp_path: Path, server: str) -> None:
    (tmp_path / "w").mkdir()
    world = World(tmp_path / "w", server)
    with new_database(empty=True) as ledger:
        plain = _with_driver(ledger, "postgresql")
        spec = world.spec()
        done = world.campaign("run", spec, "--approve", "continue", "--by", "me", CAMPAIGN_LEDGER_URL=plain)
        assert done.out.splitlines()[0] == "campaign tiny: completed"
        assert not (world.home / "ledger.db").exists()
        assert (world.home / "campaigns" / "tiny" / "results" / "all_results.csv").is_file()
        status = world.campaign("status", "tiny", CAMPAIGN_LEDGER_URL=plain).out
        assert "completed" in status
        engine = create_engine(ledger)
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT exp_id, state FROM attempts")).all()
        engine.dispose()
        assert {state for _, state in rows} == {"done"}
        assert len(rows) == 4
    # The experiments' task runs went through Redis into Prefect's own database.
    named = until(
        lambda: (
            {r["name"] for r in world.prefect("/task_runs/filter", {}) if r["state"]["name"] == "Completed"}
            >= {"1_baseline_s0", "2_main_s0"}
        ),
        "the task runs are recorded",
        world.hint,
    )
    assert named


def _with_driver(url: str, driver: str) -> str:
    return make_url(url).set(drivername=driver).render_as_string(hide_password=False)
