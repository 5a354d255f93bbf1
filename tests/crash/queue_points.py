"""Where campaigns on queues and in containers are killed: crash point -> its passages."""

_LEDGER = {
    "intent_recorded": (1, 2),
    "job_spawned": (1, 2),
    "submission_recorded": (1,),
    "exit_seen": (1,),
    "outcome_recorded": (2,),
}

QUEUE_POINTS = {**_LEDGER, "job_noted": (1, 2)}
CONTAINER_POINTS = {**_LEDGER, "container_created": (1, 2)}

POINTS = {
    "slurm": QUEUE_POINTS,
    "pbs": QUEUE_POINTS,
    "command": QUEUE_POINTS,
    "docker": CONTAINER_POINTS,
}


def cases() -> list[tuple[str, str]]:
    """Every kind of queue with every passage as the crash point is armed by it."""
    return [(kind, f"{name}:{n}") for kind, points in POINTS.items() for name, ns in points.items() for n in ns]
