"""The small vendor queue for one test: its command on PATH, a description of it, and ways to make it fail."""

import sys
from pathlib import Path
from typing import Any

from prefect_campaign.launch.command.settings import CommandSettings

PROGRAM = Path(__file__).with_name("acme.py")

DESCRIPTION: dict[str, Any] = {
    "submit": ["acme", "run", "--title={name}", "--label={mark}", "--gpus={gpus}", "--cores={cpus}",
               "--ram={memory_mb}", "--for={walltime}", "--image={image}", "--mount={storage}", "--pool={pool}", "--",
               "/bin/sh", "{script}"],
    "id_pattern": r"^Submitted task <(?P<id>[^>]+)>",
    "status": ["acme", "ps"],
    "job_pattern": r"^(?P<id>t-\d+) +(?P<state>\w+) +(?P<node>\S+) +(?P<mark>\S+) +(?P<name>\S+)$",
    "whole_pattern": r"^-- end of list --$",
    "busy_pattern": r"quota",
    "states": {"Waiting": "pending", "Blocked": "held", "Active": "running", "Done": "ended", "Error": "failed",
               "Stopped": "cancelled", "Evicted": "preempted", "Overdue": "timeout", "OOM": "out_of_memory"},
    "cancel": ["acme", "stop", "{ids}"],
    "logs": ["acme", "logs", "{id}"],
    "image": "registry.lab/train:1",
    "storage": ("data", "home dirs"),
    "fields": {"pool": "a100"},
}  # fmt: skip


class Acme:
    """One such queue.

    Args:
        folder: where all its files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        for path in (folder / "tasks", folder / "faults", self.bin):
            path.mkdir(parents=True)
        program = self.bin / "acme"
        program.write_text(f'#!/bin/sh\nACME_ROOT={folder} exec {sys.executable} -SE {PROGRAM} "$@"\n')
        program.chmod(0o755)

    def fail(self, name: str, text: str = "") -> None:
        """Set a fault."""
        (self.folder / "faults" / name).write_text(text)

    def mend(self, name: str) -> None:
        """Take it away."""
        (self.folder / "faults" / name).unlink(missing_ok=True)

    def tasks(self) -> list[str]:
        """Ids of all tasks."""
        return sorted(path.name for path in (self.folder / "tasks").iterdir())

    def looks(self) -> int:
        """How often its list was asked for."""
        path = self.folder / "ps.log"
        return len(path.read_text().splitlines()) if path.exists() else 0


def description(**changes: Any) -> CommandSettings:
    """How it is used, as a block would say."""
    return CommandSettings(**{**DESCRIPTION, **changes})
