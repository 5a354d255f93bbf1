"""Machines that are reached by SSH."""

from pydantic import Field

from prefect_campaign.blocks.machine import Machine
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.launcher import SshLauncher


class SshMachine(Machine):
    """A machine that is reached by SSH, with the system's own ssh and rsync.

    It holds no secret: keys are named by their file, or come from an agent. The host's public key must be in
    `known_hosts`; nothing of ours needs to be installed there but rsync.

    Example:
        ```python
        from prefect_campaign.blocks import SshMachine

        machine = SshMachine(name="gpu1", address="gpu1.lab", user="me", path=["venv/bin"])
        machine.save("gpu1")  # then: launcher: ssh/gpu1
        ```
    """

    _block_type_name = "Campaign SSH Machine"
    _block_type_slug = "campaign-ssh-machine"
    _description = "Runs experiments on another machine by SSH, and brings their files back."

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="The host in tables and in the ledger: lower-case letters, digits, '.' and '-'. Never change it.",
        examples=["gpu1"],
    )
    address: str = Field(
        default="", description="Host name, IP address or alias of the ssh configuration; empty: the name."
    )
    user: str = Field(default="", description="Log-in name; empty: as the ssh configuration says.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Empty: as the ssh configuration says, or 22.")
    key_file: str = Field(
        default="",
        description="Path of the private key; empty: an agent's keys, or ssh's defaults. Never the key itself.",
    )
    known_hosts: str = Field(
        default="", description="Path of the file with the host's public key; empty: ssh's default files."
    )
    config_file: str = Field(
        default="", description="ssh configuration to use instead of the user's own, e.g. with a ProxyJump."
    )
    root: str = Field(
        default=".campaign", description="Work folder there, for code and run dirs; relative to the home there."
    )
    path: list[str] = Field(
        default_factory=list,
        description="Folders put in front of PATH for experiments; relative to the home there.",
        examples=[["project/.venv/bin"]],
    )
    env: dict[str, str] = Field(default_factory=dict, description="Variables for experiments there. No secrets.")
    shared: list[str] = Field(
        default_factory=list,
        description="Folders that are the same files under the same path there (NFS): nothing in them is copied.",
    )
    exclude: list[str] = Field(
        default=["checkpoints/"], description="rsync patterns for what is not copied back from run dirs."
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        description="Experiments without GPUs that may run at once; by default as processors suffice.",
    )
    factor: float = Field(
        default=1.0, gt=0, description="How long an experiment takes here, as a multiple of the reference machine."
    )
    reserve: list[str] = Field(
        default_factory=list, description="GPUs kept for people, never used: index, or UUID or its beginning."
    )
    keep_free: int = Field(default=0, ge=0, description="How many usable GPUs are always left free for people.")
    tmux: bool = Field(default=False, description="Run inside tmux there, so that a person can attach and look on.")

    def host_name(self) -> str:
        """Name of the machine in the ledger."""
        return self.name

    def host(self) -> SshHost:
        """The host as launchers know it.

        Raises:
            Refused: a field can never work.
        """
        return SshHost(
            name=self.name,
            address=self.address,
            user=self.user,
            port=self.port,
            key_file=self.key_file,
            known_hosts=self.known_hosts,
            config_file=self.config_file,
            root=self.root,
            path=tuple(self.path),
            env=dict(self.env),
            shared=tuple(self.shared),
            exclude=tuple(self.exclude),
            slots=self.slots,
            factor=self.factor,
            reserve=tuple(self.reserve),
            keep_free=self.keep_free,
            tmux=self.tmux,
        )

    def launcher(self) -> SshLauncher:
        """The launcher for this machine.

        Raises:
            Refused: a field can never work.
        """
        return SshLauncher(self.host())
