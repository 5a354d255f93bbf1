"""What this machine can compute with, in a few lines: driver, GPUs, memory, disk, and the tier of its GPUs."""

import os
import shutil
from dataclasses import dataclass
from typing import Any

import psutil
from rich.table import Table
from rich.text import Text

from prefect_campaign.cli.doctor_here import gb
from prefect_campaign.cli.doctor_machines import models
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.text import printable

TIERS = (24, 16, 8, 4)
"""GB of a GPU, by which people choose what to run."""
SHY = 0.9
"""A card that is sold with 16 GB tells between 14.6 and 16 GiB: so much of a tier is the tier."""


@dataclass(frozen=True)
class Compute:
    """This machine."""

    driver: str
    cuda: str
    gpus: tuple[Gpu, ...]
    """Those that can be used."""
    processors: int
    memory_mb: int
    memory_free_mb: int
    disk_free_mb: int

    @property
    def tiers(self) -> dict[str, int]:
        """Tier -> how many GPUs are of it."""
        found: dict[str, int] = {}
        for gpu in self.gpus:
            name = tier_of(gpu.total_mb)
            found[name] = found.get(name, 0) + 1
        return found

    @property
    def tiers_now(self) -> dict[str, int]:
        """The same by what is free now."""
        found: dict[str, int] = {}
        for gpu in self.gpus:
            name = tier_of(gpu.free_mb)
            found[name] = found.get(name, 0) + 1
        return found

    def document(self) -> dict[str, Any]:
        """For programs."""
        plain = {name: getattr(self, name) for name in ("driver", "cuda", "processors", "memory_mb")}
        plain |= {name: getattr(self, name) for name in ("memory_free_mb", "disk_free_mb", "tiers", "tiers_now")}
        gpus = [{"name": g.name, "uuid": g.uuid, "total_mb": g.total_mb, "free_mb": g.free_mb} for g in self.gpus]
        return {**plain, "gpus": gpus}


def detect(view: HostView, home: Home) -> Compute:
    """This machine as it is now.

    Args:
        view: as its launcher sees it.
        home: on whose disk run dirs will be.
    """
    there = next(p for p in (home.path, *home.path.parents) if p.exists())
    memory = psutil.virtual_memory()
    return Compute(
        driver=view.driver,
        cuda=view.cuda,
        gpus=tuple(gpu for gpu in view.gpus if not gpu.problem and gpu.total_mb),
        processors=len(os.sched_getaffinity(0)),
        memory_mb=memory.total >> 20,
        memory_free_mb=memory.available >> 20,
        disk_free_mb=shutil.disk_usage(there).free >> 20,
    )


def tier_of(mib: int) -> str:
    """The tier of so much GPU memory, such as ``16 GB``."""
    return next((f"{tier} GB" for tier in TIERS if mib >= SHY * tier * 1024), f"under {TIERS[-1]} GB")


def block(found: Compute, width: int) -> Table:
    """The summary for a terminal."""
    table = Table.grid(padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(width=max(width - 12, 20), overflow="fold")
    gpus = models(found.gpus) if found.gpus else "none that can be used"
    driver = f"driver {found.driver}, CUDA {found.cuda or '?'}" if found.driver else "no NVIDIA driver"
    table.add_row("GPUs", Text(f"{gpus}; {printable(driver)}"))
    if found.gpus:
        table.add_row(
            "tier", f"{_counted(found.tiers)} by all of their memory, {_counted(found.tiers_now)} by what is free"
        )
    table.add_row("CPU", f"{found.processors} processors, {gb(found.memory_mb)} RAM ({gb(found.memory_free_mb)} free)")
    table.add_row("disk", f"{gb(found.disk_free_mb)} free for runs and results")
    table.add_row(
        "fits",
        Text(
            "not guessed from the tier: each shape of experiment is measured (resources.probe, network, vram_mb)", "dim"
        ),
    )
    return table


def _counted(tiers: dict[str, int]) -> str:
    top = f"{TIERS[0]} GB"
    return " + ".join(f"{count} x {name}{' or more' if name == top else ''}" for name, count in tiers.items())
