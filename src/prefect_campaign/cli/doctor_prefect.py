"""What `campaign doctor` asks the Prefect server; without one it says so, and none is started."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, aside
from prefect_campaign.cli.server import answers, known_server
from prefect_campaign.ledger.location import Home

PREFECT = "Prefect server"
SERVED = ("campaign/pilot", "campaign/full", "intervene/answer", "monitor/monitor")
MACHINE_TYPES = {
    "campaign-local-machine": "local",
    "campaign-ssh-machine": "ssh",
    "campaign-docker-machine": "docker",
    "campaign-slurm-cluster": "slurm",
    "campaign-pbs-cluster": "pbs",
    "campaign-command-queue": "command",
}
"""Type of a block -> what stands before the slash in specs."""


@dataclass(frozen=True)
class Block:
    """A machine as Prefect has it."""

    launcher: str
    """As specs name it: ``ssh/gpu1``."""
    data: dict[str, Any]


async def server(home: Home) -> tuple[list[Finding], str | None]:
    """What there is to say about the server, and its URL if it answers."""
    url, configured = await aside(lambda: known_server(home))
    if url is None:
        text = "none is configured; `campaign run` and `campaign up` start one of their own"
        return [Finding(PREFECT, NOTE, text)], None
    where = f"{url} ({'PREFECT_API_URL' if configured else 'started by campaign'})"
    if not await aside(lambda: answers(url)):
        text = f"{where}: does not answer"
        return [Finding(PREFECT, BAD, text, "start it, or unset PREFECT_API_URL to use an embedded one")], None
    found = [Finding(PREFECT, GOOD, f"{where} answers")]
    async with _client(url) as client:
        found.append(_version(str(await client.api_version()), client.client_version()))
        found.append(_served(await client.read_deployments()))
    return found, url


async def blocks(url: str) -> list[Block]:
    """All machines that the server knows."""
    async with _client(url) as client:
        found = [
            Block(f"{prefix}/{document.name}", dict(document.data))
            for kind, prefix in MACHINE_TYPES.items()
            for document in await _of_type(client, kind)
        ]
    return sorted(found, key=lambda one: one.launcher)


async def _of_type(client: Any, kind: str) -> Sequence[Any]:
    from prefect.exceptions import ObjectNotFound

    try:
        return list(await client.read_block_documents_by_type(kind))
    except ObjectNotFound:  # no such block was ever saved
        return []


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(updates={PREFECT_API_URL: url}):
        async with get_client(httpx_settings={"timeout": 10}) as client:
            yield client


def _version(theirs: str, ours: str) -> Finding:
    if theirs == ours:
        return Finding(PREFECT, GOOD, f"server and client are both {ours}")
    same = theirs.split(".")[:2] == ours.split(".")[:2]
    text = f"server {theirs}, client {ours}"
    if same or theirs.split(".")[0] == ours.split(".")[0]:
        return Finding(PREFECT, NOTE if same else WARN, text, "" if same else "use one version, lest calls are refused")
    return Finding(PREFECT, BAD, f"{text}: these do not understand each other", "install the same release on both")


def _served(deployments: Sequence[Any]) -> Finding:
    """The flow's name is in the entrypoint: asking for every flow would cost a call each."""
    ready = {one.name for one in deployments if getattr(one.status, "value", one.status) == "READY"}
    missing = [name for name in SERVED if name.split("/")[1] not in ready]
    if not missing:
        return Finding(PREFECT, GOOD, f"deployments are served: {', '.join(SERVED)}")
    text = f"not served now: {', '.join(missing)}"
    return Finding(
        PREFECT, NOTE, f"{text}; needed to start from the UI, and to be looked after when no flow lives", "campaign up"
    )
