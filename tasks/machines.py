"""From the spec's `launcher` to the launcher itself."""

from typing import cast

from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign


async def launcher_of(campaign: Campaign) -> Launcher:
    """The launcher that the spec names: ``local``, or the block behind ``local/<name>``.

    Raises:
        Refused: there is no such block.
    """
    _, _, block = campaign.launcher.partition("/")
    if not block:
        return LocalLauncher(slots=None)
    from prefect_campaign.blocks.machines import LocalMachine

    try:
        machine = cast(LocalMachine, await LocalMachine.aload(block))
    except ValueError as error:
        raise Refused(f"launcher: no Prefect block {block!r} of type Campaign Local Machine ({error})") from None
    return machine.launcher()
