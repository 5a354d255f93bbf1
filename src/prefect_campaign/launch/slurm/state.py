"""Slurm's job states in all their spellings, and what each means for an attempt (pure)."""

STATES = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "EX": "EXPEDITING",
    "F": "FAILED",
    "LF": "LAUNCH_FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "PO": "POWER_UP_NODE",
    "R": "RUNNING",
    "RC": "RECONFIG_FAIL",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RQ": "REQUEUED",
    "RS": "RESIZING",
    "RV": "REVOKED",
    "S": "SUSPENDED",
    "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "TO": "TIMEOUT",
    "UD": "UPDATE_DB",
}
"""Short name -> name, all versions."""

WAITING = frozenset(
    {
        "PENDING",
        "EXPEDITING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
        "POWER_UP_NODE",
    }
)
"""It is in the queue, perhaps again."""

ASLEEP = frozenset({"SUSPENDED", "STOPPED"})
"""It runs, but was stopped for now, so that it can write nothing."""

OVER = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "TIMEOUT",
    }
)
"""It is over and does not come back. Every other state, also one that is not known here, is taken to be alive.

REVOKED is not among them: a sibling of that job runs elsewhere in the federation.
"""

HELD = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
"""In the queue, but somebody must release it."""

_NAMES = frozenset(STATES.values())


def telling(state: str | None) -> str | None:
    """The states that say more than an exit code does; None for others."""
    return state if state not in ("COMPLETED", "FAILED", None) else None


def state_name(said: str) -> str:
    """A state's full name from any spelling; one that is not known as it is, in capitals.

    Examples: ``PD``, ``OUT_OF_ME+`` (cut by a column), ``CANCELLED by 1000``, ``CANCELLED+``, ``RUNNING,COMPLETING``.
    """
    words = said.replace(",", " ").split()
    if not words:
        return ""
    word = words[0].upper()
    if "COMPLETING" in (other.upper() for other in words[1:]):
        return "COMPLETING"
    if word in STATES:
        return STATES[word]
    cut = word.rstrip("+")
    if cut in _NAMES or not word.endswith("+"):
        return cut
    fitting = [name for name in _NAMES if name.startswith(cut)]
    return fitting[0] if len(fitting) == 1 else cut
