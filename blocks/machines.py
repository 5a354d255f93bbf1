"""Machines that run experiments."""

from pydantic import Field

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name


class LocalMachine(Machine):
    """The machine that the flow itself runs on.

    Example:
        ```python
        from prefect_campaign.blocks import LocalMachine

        LocalMachine(slots=4, reserve=["0"]).save("workstation")  # then: launcher: local/workstation
        ```
    """

    _block_type_name = "Campaign Local Machine"
    _block_type_slug = "campaign-local-machine"
    _description = "Runs experiments as processes of the machine that the flow runs on."

    slots: int | None = Field(
        default=None,
        ge=1,
        description="Experiments without GPUs that may run at once; by default as processors suffice.",
    )
    reserve: list[str] = Field(
        default_factory=list, description="GPUs kept for people, never used: index, or UUID or its beginning."
    )
    keep_free: int = Field(default=0, ge=0, description="How many usable GPUs are always left free for people.")
    factor: float = Field(
        default=1.0, gt=0, description="How long an experiment takes here, as a multiple of the reference machine."
    )

    tmux: bool = Field(default=False, description="Run inside tmux, so that a person can attach and look on.")

    def host_name(self) -> str:
        """Name of this machine in the ledger."""
        return host_name()

    def launcher(self) -> LocalLauncher:
        """The launcher for this machine."""
        return LocalLauncher(
            slots=self.slots, reserve=self.reserve, keep_free=self.keep_free, factor=self.factor, tmux=self.tmux
        )
