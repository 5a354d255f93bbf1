"""What the states and exit statuses of PBS Pro, OpenPBS and Torque mean (pure)."""

import signal
from collections.abc import Callable, Mapping

from prefect_campaign.launch.queue.jobs import Entry
from prefect_campaign.model.text import printable

# Negative statuses are PBS's own: -> (state as the catalog of failures names it, what happened).
_PBS = {
    -1: ("FAILED", "it could not be started"),
    -2: ("FAILED", "it could not be started"),
    -3: ("NODE_FAIL", "its start failed, to be tried again"),
    -4: ("BOOT_FAIL", "aborted when PBS was started anew on its node"),
    -5: ("BOOT_FAIL", "aborted when PBS was started anew on its node"),
    -6: ("BOOT_FAIL", "aborted when PBS was started anew on its node"),
    -7: ("FAILED", "its restart from a checkpoint failed"),
    -10: ("FAILED", "its user or group does not exist on the node"),
    -11: ("PREEMPTED", "sent back to the queue"),
    -12: ("PREEMPTED", "checkpointed and ended"),
    -13: ("FAILED", "bad password"),
    -14: ("NODE_FAIL", "one of its nodes failed"),
    -15: ("PREEMPTED", "sent back to the queue"),
    -16: ("FAILED", "rejected by a hook of the site"),
    -17: ("FAILED", "rejected by a hook of the site"),
    -18: ("PREEMPTED", "sent back to the queue by a hook of the site"),
    -19: ("CANCELLED", "deleted by a hook of the site"),
    -20: ("NODE_FAIL", "the server lost its node"),
    -21: ("FAILED", "security breach in a folder of PBS on its node"),
    -22: ("FAILED", "a hook of the site failed"),
    -23: ("FAILED", "no Kerberos credentials"),
    -24: ("FAILED", "it used more processors than it asked for"),
    -25: ("FAILED", "it used more processors than it asked for"),
    -26: ("OUT_OF_MEMORY", "it used more virtual memory than it asked for"),
    -27: ("OUT_OF_MEMORY", "it used more memory than it asked for"),
    -28: ("TIMEOUT", "it used more processor time than it asked for"),
    -29: ("TIMEOUT", "it ran longer than the walltime it asked for"),
    -30: ("NODE_FAIL", "its nodes could not be joined"),
}
# Where Torque means something else by the same number.
_TORQUE = {
    -8: ("FAILED", "its shell could not be started"),
    -9: ("FAILED", "its output files could not be opened"),
    -10: ("OUT_OF_MEMORY", "it used more memory than it asked for"),
    -11: ("TIMEOUT", "it ran longer than the walltime it asked for"),
    -12: ("TIMEOUT", "it used more processor time than it asked for"),
    -13: ("NODE_FAIL", "its cgroup could not be made, to be tried again"),
    -14: ("NODE_FAIL", "the prologue failed, to be tried again"),
}

_WAITING = {
    "Q": "queued",
    "T": "moving to another queue",
    "W": "waits for its start time",
    "H": "held",
}
_RUNNING = {"R": "", "E": "exiting", "S": "suspended by PBS", "U": "suspended: its node is in use", "B": "begun"}
_SUSPENDED = frozenset("SU")
_ENDED = frozenset("FXC")
_HOLDS = {"u": "by its user", "o": "by an operator", "s": "by PBS or an administrator", "p": "for a bad password"}

_DELETED = "91"
"""Substate of a job that was ended by qdel."""

_UNITS = {"b": 1, "w": 8}
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_NEARLY = 0.97
"""A job is ended a little before or after its limit."""


def entry_of(job_id: str, attributes: Mapping[str, str]) -> Entry:
    """How a job is, from the attributes that qstat shows; a letter that is not known is unclear, and never an end."""
    letter = attributes.get("job_state", "")
    node = first_node(attributes.get("exec_host", ""))
    comment = printable(attributes.get("comment", ""))[:300]
    if letter in _WAITING:
        stuck, why = _waiting(letter, attributes)
        return Entry(job_id, "pending", None, "; ".join(filter(None, (why, comment))), stuck)
    if letter in _RUNNING:
        return Entry(job_id, "running", None, _RUNNING[letter], node=node, suspended=letter in _SUSPENDED)
    if letter in _ENDED:
        state, why = _ended(attributes)
        detail = "; ".join(filter(None, (why, comment)))
        return Entry(job_id, "ended", state, detail, node=node, oom_killed=state == "OUT_OF_MEMORY")
    if letter == "M":
        return Entry(job_id, "unclear", None, "moved to another server of PBS; look for it there")
    return Entry(job_id, "unclear", None, f"PBS says its state is {letter!r:.40}, which is not known here")


def first_node(exec_host: str) -> str:
    """The node that runs the script: ``n1`` in ``n1/0*16+n2/0*16``."""
    return exec_host.split("+")[0].split("/")[0].strip()


def exit_status(attributes: Mapping[str, str]) -> int | None:
    """``Exit_status``, or Torque's ``exit_status``; None if there is none."""
    text = attributes.get("Exit_status", attributes.get("exit_status", "")).strip()
    return int(text) if text.removeprefix("-").isdecimal() else None


def signal_in(status: int) -> int | None:
    """The signal in an exit status: 256 + number, or the 128 + number of a shell."""
    number = status - 256 if status >= 256 else status - 128
    return number if number in signal.valid_signals() else None


def _waiting(letter: str, attributes: Mapping[str, str]) -> tuple[bool, str]:
    """Whether it waits for somebody to do something, and for what it waits."""
    if letter != "H":
        return False, _WAITING[letter]
    depends = attributes.get("depend", "")
    if any(part.startswith(("after", "on")) for part in depends.split(",")):
        return False, f"held until jobs that it depends on are done ({printable(depends)[:100]})"
    by = [_HOLDS[c] for c in attributes.get("Hold_Types", "") if c in _HOLDS]
    return True, " ".join(["held", *([" and ".join(by)] if by else []), "- release it with qrls, or cancel it"])


def _ended(attributes: Mapping[str, str]) -> tuple[str, str]:
    """How it ended: state, and in words."""
    status = exit_status(attributes)
    if status is None:
        if attributes.get("substate") == _DELETED or "delete" in attributes.get("comment", "").lower():
            return "CANCELLED", "it was deleted before it had run"
        return "FINISHED", "PBS does not say how it ended; it may never have run"
    shown = f"Exit_status {status}"
    if status < 0:
        known = {**_PBS, **_TORQUE} if "exit_status" in attributes else _PBS
        state, why = known.get(status, ("FAILED", "an error of PBS's own"))
        return state, f"{shown}: {why}"
    number = signal_in(status)
    if number is None:
        return ("COMPLETED" if status == 0 else "FAILED"), shown
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if _reached(seconds, attributes, "walltime"):
        return "TIMEOUT", f"{shown} ({name}): it reached its walltime"
    if number == signal.SIGKILL and _reached(size, attributes, "mem", "vmem"):
        return "OUT_OF_MEMORY", f"{shown} ({name}): it reached its memory limit"
    if attributes.get("substate") == _DELETED:
        return "CANCELLED", f"{shown} ({name}): it was deleted, by its user or an administrator"
    if status >= 256 and number in (signal.SIGTERM, signal.SIGKILL):
        return "CANCELLED", f"{shown} ({name}): it was deleted, by its user or an administrator, or killed on its node"
    return "FAILED", f"{shown} ({name})"


def _reached(number: Callable[[str], int | None], attributes: Mapping[str, str], *names: str) -> bool:
    for name in names:
        used, limit = (number(attributes.get(f"{of}.{name}", "")) for of in ("resources_used", "Resource_List"))
        if used is not None and limit and used >= _NEARLY * limit:
            return True
    return False


def seconds(text: str) -> int | None:
    """``HH:MM:SS``, ``MM:SS`` or seconds, days in front if any; None if it is none of them."""
    parts = text.strip().split(":")
    if not text.strip() or len(parts) > 4 or not all(part.isdecimal() for part in parts):
        return None
    total = 0
    for part, factor in zip(reversed(parts), (1, 60, 3600, 86400), strict=False):
        total += int(part) * factor
    return total


def size(text: str) -> int | None:
    """Bytes in ``4199416kb`` or ``2gb``; None if it is no size."""
    text = text.strip().lower()
    number = text.rstrip("bwkmgtp")
    unit = text[len(number) :]
    if not number.isdecimal() or len(unit) > 2:
        return None
    factor = _FACTORS.get(unit.rstrip("bw"))
    return None if factor is None else int(number) * factor * _UNITS.get(unit[-1:], 1)
