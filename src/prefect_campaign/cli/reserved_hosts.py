"""`campaign check`: hosts whose GPUs a spec reserves must be among those that it runs on."""

import asyncio

from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign

_HERE = ("local", "docker")
"""Kinds of launchers whose host is this machine."""


def check_reserved_hosts(campaign: Campaign, source: str) -> None:
    """See that every ``host:index`` in `policy.gpus.reserve` is of a machine in `launcher`.

    Args:
        campaign: the spec.
        source: where it was read from.

    Raises:
        Refused: one is not, so that it would protect nothing.
    """
    wanted = {entry: host for entry in map(str, campaign.policy.gpus.reserve) if (host := entry.rpartition(":")[0])}
    # A machine mostly has its block's name; Prefect, which need not be up, is only asked about others.
    hosts = {host_name() if _kind(entry) in _HERE else entry.partition("/")[2] for entry in campaign.launcher}
    hint = ""
    if set(wanted.values()) - hosts and any(_kind(entry) not in _HERE for entry in campaign.launcher):
        names = _names_of_blocks(campaign)
        hosts = {names.get(host, host) for host in hosts}
        hint = "" if names else " (names of machines are only known while a Prefect server answers: campaign up)"
    for entry, host in wanted.items():
        if host not in hosts:
            raise Refused(
                f"{source}: policy.gpus.reserve: {entry!r}: host {host!r} is not in `launcher`, whose hosts are "
                f"{', '.join(sorted(hosts))}{hint}; correct it, or leave out what is not used anyway"
            )


def _kind(entry: str) -> str:
    return entry.partition("/")[0]


def _names_of_blocks(campaign: Campaign) -> dict[str, str]:
    """Name of a block -> name of its host, of those that Prefect knows; empty if it cannot be asked."""
    from prefect_campaign.cli import doctor_prefect
    from prefect_campaign.cli.server import answers, known_server

    url, _ = known_server(Home.locate())
    if url is None or not answers(url):
        return {}
    known = {block.launcher: block.data.get("name") for block in asyncio.run(doctor_prefect.blocks(url))}
    return {entry.partition("/")[2]: str(known[entry]) for entry in campaign.launcher if known.get(entry)}
