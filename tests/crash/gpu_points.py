"""Where campaigns on GPUs and on SSH hosts are killed: crash point -> its passages."""

GPU_POINTS = {
    "probe_recorded": (1,),
    "probe_peak_recorded": (1,),
    "probe_exit_seen": (1,),
    "probe_ended": (1,),
    "intent_recorded": (1,),
    "job_spawned": (1, 3),
    "outcome_recorded": (1,),
}
"""On GPUs of this machine. The first job is a probe, the others are experiments."""

FREED_POINTS = {"probe_recorded": (1,), "intent_recorded": (1,)}
"""Where GPUs are leased and nothing runs there yet."""

HELD_POINTS = {"job_spawned:1": "probe", "job_spawned:3": "train", "submission_recorded:1": "train"}
"""Where jobs run -> which."""

SSH_POINTS = {
    "check_claimed": (1,),
    "check_job_recorded": (2,),
    "check_job_submitted": (2,),
    "check_exit_seen": (2,),
    "check_job_closed": (2,),
    "check_concluded": (1,),
    "code_copied": (1,),
    "code_placed": (1,),
    "intent_recorded": (1,),
    "job_spawned": (2, 3),
    "files_copied": (3,),
}
"""On a host that is reached by SSH: its first job looks for the program, its second one is a dry run."""

STARTED_POINTS = {"gpu_found_busy": (1,), "alert_raised": (1,), "answer_taken": (1,), "job_spawned": (1,)}
"""Where an experiment waits for a GPU that somebody else uses, and is to start all the same."""

STOPPED_POINTS = {"answer_taken": (1,), "launch_given_up": (1,)}
"""Where it is to be stopped."""


def cases(points: dict[str, tuple[int, ...]]) -> list[str]:
    """Every passage as the crash point is armed by it."""
    return [f"{name}:{n}" for name, passages in points.items() for n in passages]
