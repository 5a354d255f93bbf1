"""Named crash points, so that a test can kill the process at any step that matters.

A test arms one with ``CAMPAIGN_CRASH_AT=name`` or ``name:n`` (the n-th passage); the process then dies by
SIGKILL, exactly as in a power cut. Unarmed, a point costs one dictionary look-up.
"""

import os
import signal

CRASH_POINTS = (
    "plan_recorded",
    "stage_opened",
    "check_claimed",
    "check_job_recorded",
    "check_job_submitted",
    "check_exit_seen",
    "check_job_closed",
    "check_concluded",
    "probe_recorded",
    "probe_peak_recorded",
    "probe_exit_seen",
    "probe_ended",
    "intent_recorded",
    "gpu_found_busy",
    "alert_raised",
    "answer_taken",
    "launch_given_up",
    "code_copied",
    "code_placed",
    "job_noted",
    "container_created",
    "job_spawned",
    "submission_recorded",
    "files_copied",
    "exit_seen",
    "outcome_recorded",
    "retry_planned",
    "batch_ended",
    "stage_judged",
    "gate_asked",
    "gate_answered",
    "full_opened",
    "results_exported",
    "campaign_ended",
)
"""Every armed name must be one of these; the sweep test runs through them all."""

_passed: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Die here by SIGKILL if a test armed this point.

    Args:
        name: one of `CRASH_POINTS`.
    """
    armed = os.environ.get("CAMPAIGN_CRASH_AT")
    if not armed:
        return
    wanted, _, nth = armed.partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
