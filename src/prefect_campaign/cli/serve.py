"""Serving the deployments campaign/pilot, campaign/full, intervene/answer and the scheduled monitor."""

import asyncio
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

from prefect_campaign.cli.live import Watcher
from prefect_campaign.cli.server import ensure_server, ui_url
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.spec import Campaign

QUERY_SECONDS = 2.0
"""How often the runner asks the server for runs that are due."""
SERVE_SECONDS = 60


def up(monitor_every: int) -> None:
    """Start a server if none is configured, and serve until Ctrl-C."""
    home = Home.locate().ensure()
    Ledger.open(home).close()
    url = ensure_server(home)
    print(f"Prefect UI          {ui_url(url)}")
    print(f"for other terminals export PREFECT_API_URL={url}")
    print("start a campaign    prefect deployment run campaign/pilot --param spec=PATH")
    what = f"campaign/pilot, campaign/full, intervene/answer, monitor/monitor (every {monitor_every} s)"
    print(f"serving {what}; Ctrl-C stops serving", flush=True)  # a log file must say so before the end
    try:
        asyncio.run(serve(monitor_every))
    except KeyboardInterrupt:
        print("stopped serving; running experiments go on")


async def serve(monitor_every: int) -> None:
    """Register the deployments and run what is due, for ever."""
    from prefect.blocks.core import Block
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    import prefect_campaign.blocks as blocks
    from prefect_campaign.flows.campaign import campaign
    from prefect_campaign.flows.intervene import intervene
    from prefect_campaign.flows.monitor import monitor

    for name in blocks.__all__:
        block: type[Block] = getattr(blocks, name)
        await block.aregister_type_and_schema()
    runner = Runner(name="campaign", query_seconds=QUERY_SECONDS, pause_on_shutdown=False)
    by_module = EntrypointType.MODULE_PATH
    for deployment in (
        await campaign.ato_deployment("pilot", parameters={"phase": "pilot"}, entrypoint_type=by_module),
        await campaign.ato_deployment("full", parameters={"phase": "full"}, entrypoint_type=by_module),
        await intervene.ato_deployment("answer", entrypoint_type=by_module),
        await monitor.ato_deployment("monitor", interval=timedelta(seconds=monitor_every), entrypoint_type=by_module),
    ):
        await runner.aadd_deployment(deployment)
    await runner.start()


def trigger(home: Home, spec: str | Campaign, *, new_round: bool, watcher: Watcher) -> dict[str, Any]:
    """Serve in a process of its own, trigger ``campaign/pilot``, and watch until it ends; returns the outcome.

    Raises:
        Transient: the deployments were not served in time.
    """
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, temporary_settings

    log = home.path / "serve.log"
    with log.open("ab") as out, temporary_settings(updates={PREFECT_API_URL: watcher.api_url}):
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect_campaign.cli.main", "up"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PREFECT_API_URL": watcher.api_url},
            start_new_session=True,
        )
        try:
            _await_deployments(server, str(log))
            parameter = spec if isinstance(spec, str) else spec.model_dump(mode="json")
            run: Any = run_deployment(
                "campaign/pilot", parameters={"spec": parameter, "new_round": new_round}, timeout=0, as_subflow=False
            )
            return watcher.follow(str(run.id))
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def _await_deployments(server: subprocess.Popen[bytes], log: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + SERVE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                found = client.read_deployment_by_name("campaign/pilot")
                if str(found.status.value if found.status else "") == "READY":
                    return
            except ObjectNotFound:
                pass
            time.sleep(0.3)
    raise Transient(f"the deployments were not served within {SERVE_SECONDS} s; see {log}")
