"""Control groups of our own, below the machine's: for memory limits, and taken away afterwards."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def controllers_mounted() -> bool:
    """Whether memory can be limited at all."""
    unified = ROOT / "cgroup.controllers"
    return memory_v1() is not None or (unified.exists() and "memory" in unified.read_text().split())


def memory_v1() -> Path | None:
    """The memory controller's own hierarchy, where there is one (version 1)."""
    path = ROOT / "memory"
    return path if (path / "memory.limit_in_bytes").exists() else None


def remove(name: str) -> None:
    """Remove the groups of this name, in every hierarchy; one that somebody is still in stays."""
    for top in (ROOT / name, *ROOT.glob(f"*/{name}")):
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
