"""Placement on the slots of one machine (its processor cores, while GPUs are not placed)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """An experiment that wants to start."""

    exp_id: str
    not_before: float = 0.0
    """Seconds since the epoch; a retry waits for its back-off."""


@dataclass(frozen=True)
class Assignment:
    """An experiment and the device it gets."""

    exp_id: str
    device: str


@dataclass(frozen=True)
class Placement:
    """What starts now, and why the rest waits."""

    assignments: tuple[Assignment, ...]
    waits: str


def devices_of(slots: int) -> list[str]:
    """Names of a machine's slots, the unit that is leased."""
    return [f"slot-{i}" for i in range(slots)]


def place(demands: Sequence[Demand], devices: Sequence[str], leased: Collection[str], now: float) -> Placement:
    """Give each due demand one free device, in the order of the demands.

    Args:
        demands: who wants to start, most wanted first.
        devices: all devices of the machine that the campaign may use.
        leased: devices that somebody holds, this campaign or another.
        now: seconds since the epoch.
    """
    free = [d for d in devices if d not in leased]
    due = [d for d in demands if d.not_before <= now]
    assignments = tuple(Assignment(d.exp_id, device) for d, device in zip(due, free, strict=False))
    waiting = len(demands) - len(assignments)
    if not waiting:
        return Placement(assignments, "")
    reasons = []
    if len(due) > len(free):
        reasons.append(f"{len(due) - len(free)} for a free slot ({len(devices)} in all, {len(leased)} leased)")
    if len(demands) > len(due):
        reasons.append(f"{len(demands) - len(due)} for the back-off of a retry")
    return Placement(assignments, f"{waiting} wait: " + ", ".join(reasons))
