"""The one place that asks the machine for the time, so that tests can inject another."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds since the epoch; or of a steady clock, where that is said."""


def system_clock() -> float:
    """The machine's wall clock."""
    return time.time()


def steady_clock() -> float:
    """Seconds that only ever grow, evenly, whatever becomes of the wall clock: for ages, within one process."""
    return time.monotonic()


def iso(seconds: float | None) -> str:
    """UTC, ISO 8601 to the second, e.g. ``2026-01-31T12:00:00Z``; empty for None."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
