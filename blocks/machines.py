"""Machines that run experiments."""

from prefect.blocks.core import Block
from pydantic import Field

from prefect_campaign.launch.local import LocalLauncher


class LocalMachine(Block):
    """The machine that the flow itself runs on.

    Example:
        ```python
        LocalMachine(slots=4).save("workstation")  # then: launcher: local/workstation
        ```
    """

    _block_type_name = "Campaign Local Machine"
    _block_type_slug = "campaign-local-machine"
    _description = "Runs experiments as processes of the machine that the flow runs on."

    slots: int | None = Field(
        default=None, ge=1, description="Experiments that may run at once; by default one per processor core."
    )

    def launcher(self) -> LocalLauncher:
        """The launcher for this machine."""
        return LocalLauncher(slots=self.slots)
