"""From the spec's `launcher` to the launcher itself."""

from typing import cast

from prefect.blocks.core import Block

from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign


async def launcher_of(campaign: Campaign) -> Launcher:
    """The launcher for the machines that the spec names.

    Raises:
        Refused: there is no such block, or two of them mean one machine.
    """
    members: dict[str, Launcher] = {}
    for named in campaign.launcher:
        host, launcher = await _machine(named)
        if host in members:
            raise Refused(f"launcher: {named!r} is host {host!r}, which is there already; name each machine once")
        members[host] = launcher
    only = next(iter(members.values()))
    return only if len(members) == 1 and isinstance(only, LocalLauncher) else Fleet(members)


async def _machine(named: str) -> tuple[str, Launcher]:
    kind, _, block = named.partition("/")
    if kind == "ssh":
        from prefect_campaign.blocks.ssh import SshMachine

        there = cast(SshMachine, await _block(SshMachine, block))
        return there.name, there.launcher()
    if not block:
        return host_name(), LocalLauncher()
    from prefect_campaign.blocks.machines import LocalMachine

    return host_name(), cast(LocalMachine, await _block(LocalMachine, block)).launcher()


async def _block(kind: type[Block], name: str) -> Block:
    try:
        return cast(Block, await kind.aload(name))
    except ValueError as error:
        raise Refused(f"launcher: no Prefect block {name!r} of type {kind.get_block_type_name()} ({error})") from None
