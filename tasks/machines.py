"""From the spec's `launcher` to the launcher itself."""

from importlib import import_module
from typing import Protocol, cast

from prefect.blocks.core import Block

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign

BLOCKS = {
    "local": ("machines", "LocalMachine"),
    "ssh": ("ssh", "SshMachine"),
    "docker": ("docker", "DockerMachine"),
    "slurm": ("slurm", "SlurmCluster"),
    "pbs": ("pbs", "PbsCluster"),
    "command": ("command", "CommandQueue"),
}
"""What stands before the slash of a `launcher` entry -> module and class of its block."""


class MachineBlock(Protocol):
    """What every block of a machine or a queue offers."""

    def host_name(self) -> str:
        """Its name in the ledger: one for each machine."""
        ...

    def launcher(self) -> Launcher:
        """The launcher for it."""
        ...


async def launcher_of(campaign: Campaign) -> Fleet:
    """The launcher for the machines that the spec names.

    Two entries of different kinds for one machine, such as ``[docker/torch, local]``, are an order of preference.

    Raises:
        Refused: there is no such block, or two of one kind mean one machine.
    """
    members: dict[str, list[Launcher]] = {}
    for named in campaign.launcher:
        host, launcher = await _machine(named)
        if isinstance(launcher, DockerLauncher):
            home = Home.locate()
            launcher.scope = Scope(campaign.name, home.ledger_id, home.ledger_url)
        others = members.setdefault(host, [])
        if any(launcher.name == other.name for other in others):
            raise Refused(f"launcher: {named!r} is host {host!r}, which is there already; name each machine once")
        if others and not all(isinstance(one, LocalLauncher | DockerLauncher) for one in (*others, launcher)):
            raise Refused(f"launcher: {named!r} is called {host!r}, like another one; give its block another name")
        others.append(launcher)
    fleet = {host: some[0] if len(some) == 1 else Either(some) for host, some in members.items()}
    return Fleet(fleet)  # one machine, too: what was given to another one is not looked for here


async def _machine(named: str) -> tuple[str, Launcher]:
    kind, _, name = named.partition("/")
    if not name:
        return host_name(), LocalLauncher()
    module, block = BLOCKS[kind]
    try:
        found = getattr(import_module(f"prefect_campaign.blocks.{module}"), block)
    except ModuleNotFoundError as error:
        raise Refused(f"launcher: {named!r} needs {error.name}; pip install 'prefect-campaign[{kind}]'") from None
    there = await _loaded(found, name)
    return there.host_name(), there.launcher()


async def _loaded(kind: type[Block], name: str) -> MachineBlock:
    try:
        return cast(MachineBlock, await kind.aload(name))
    except ValueError as error:
        raise Refused(f"launcher: no Prefect block {name!r} of type {kind.get_block_type_name()} ({error})") from None
