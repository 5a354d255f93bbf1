"""How long to wait before the next look at a batch."""

import math

from prefect_campaign.watch.health import Health

Range = tuple[float, float]
"""Seconds, from and to."""

PENDING: Range = (600.0, 900.0)
RUNNING: Range = (180.0, 300.0)
DEGRADED: Range = (60.0, 120.0)
SHORT_MINUTES = 30.0
"""An experiment that takes no longer is a short pilot, and looked at more often."""
SHORT_LEAST = 5.0
LOCAL: Range = (2.0, 30.0)
"""Where exits come as events, a look only reads metrics and logs, which costs next to nothing."""


def seconds_until_look(
    *, pending: int, running: int, health: Health = "healthy", events: bool, expected_minutes: float | None = None
) -> float:
    """Seconds until the next look.

    Within the range for the batch's condition it is a twentieth of the expected duration, so that about twenty
    looks see one experiment; the short end where the duration is unknown.

    Args:
        pending: experiments that wait, in a queue of ours or of a scheduler.
        running: experiments that run.
        health: from `batch_health`; anything but healthy is looked at more often.
        events: whether the launcher tells ends by itself (local, Docker).
        expected_minutes: duration of one experiment.

    Returns:
        Infinity if nothing is pending or running.
    """
    if not pending and not running:
        return math.inf
    if events:
        if not running:
            return LOCAL[1]
        return LOCAL[0] if health != "healthy" else _within(LOCAL, expected_minutes)
    least, most = PENDING if not running else RUNNING if health == "healthy" else DEGRADED
    if expected_minutes is not None and expected_minutes <= SHORT_MINUTES:
        least = SHORT_LEAST
    return _within((least, most), expected_minutes)


def _within(limits: Range, expected_minutes: float | None) -> float:
    if expected_minutes is None:
        return limits[0]
    return min(max(limits[0], expected_minutes * 60 / 20), limits[1])
