"""A machine that is reached by SSH: everything a person says about it (no secrets: keys are files or an agent's)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from prefect_campaign.model.errors import Refused

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class SshHost:
    """One SSH host. Whatever is left empty is what the person's own ssh would take.

    Raises:
        Refused: at construction, if a field can never work.
    """

    name: str
    """The host in ledger and tables: lower-case letters, digits, ``.`` and ``-``."""
    address: str = ""
    """Host name, IP address or alias of the ssh configuration; empty: the name."""
    user: str = ""
    port: int | None = None
    key_file: str = ""
    """Private key; empty: an agent's keys, or ssh's defaults."""
    known_hosts: str = ""
    """File with the host's public key; empty: ssh's default files. A host that is not in it is refused."""
    config_file: str = ""
    """ssh configuration to use instead of the person's own, for example with a ``ProxyJump``."""
    root: str = ".campaign"
    """Work folder on the host for code and run dirs; relative to the home there."""
    path: tuple[str, ...] = ()
    """Folders put in front of ``PATH`` for jobs, such as a venv's ``bin``; relative to the home there."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables for jobs on this host; the campaign's own win."""
    shared: tuple[str, ...] = ()
    """Folders that are the same files under the same path there (NFS): nothing in them is copied."""
    exclude: tuple[str, ...] = ("checkpoints/",)
    """rsync patterns for what is not copied back from run dirs."""
    slots: int | None = None
    """How many experiments without GPUs may run at once; None: one per processor."""
    factor: float = 1.0
    """How long an experiment takes there / on the reference host."""
    reserve: tuple[str, ...] = ()
    """GPUs kept for people: indices, or UUIDs or their beginnings."""
    keep_free: int = 0
    """How many usable GPUs are always left free for people."""
    tmux: bool = False
    """Whether jobs run inside tmux, so that a person can attach to them."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            self._refuse("name", f"{self.name!r} is not made of lower-case letters, digits, '.' and '-'")
        if re.search(r"\s", self.target) or self.target.startswith("-"):
            self._refuse("address", f"{self.target!r} is not a host")
        if re.search(r"[\s@:]", self.user) or self.user.startswith("-"):
            self._refuse("user", f"{self.user!r} is not a user's name")
        if self.port is not None and not 0 < self.port < 65536:
            self._refuse("port", f"{self.port} is not between 1 and 65535")
        if not self.root.strip() or self.root.rstrip("/") in ("", ".", "~"):
            self._refuse("root", f"{self.root!r} is not a folder of its own")
        if self.slots is not None and self.slots < 1:
            self._refuse("slots", f"{self.slots} is less than 1")
        if not self.factor > 0:
            self._refuse("factor", f"{self.factor} is not more than 0")
        if self.keep_free < 0:
            self._refuse("keep_free", f"{self.keep_free} is less than 0")
        for name in self.env:
            if not _ENV_NAME.fullmatch(name):
                self._refuse("env", f"{name!r} is not a variable name; use letters, digits and '_'")
        for folder in self.shared:
            if not Path(folder).is_absolute():
                self._refuse("shared", f"{folder!r} is not an absolute path")
        for folder in self.path:
            if ":" in folder or not folder:
                self._refuse("path", f"{folder!r} is not one folder; give a list of them")
        texts = {"address": self.target, "user": self.user, "key_file": self.key_file, "root": self.root}
        texts |= {"known_hosts": self.known_hosts, "config_file": self.config_file}
        for what, text in texts.items():
            if _CONTROL.search(text):
                self._refuse(what, f"{text!r} has a control character")

    @property
    def target(self) -> str:
        """What ssh is told to connect to."""
        return self.address or self.name

    def is_shared(self, path: str) -> bool:
        """Whether a local path is the same file on the host."""
        return any(Path(path).is_relative_to(folder) for folder in self.shared)

    def _refuse(self, what: str, why: str) -> None:
        raise Refused(f"SSH host {self.name!r}: {what}: {why}")
