"""Why a job waits: in line like all others, or for something that never comes (pure)."""

import re

NEVER = "never starts"
"""A pending observation's detail begins with this word where nothing but a person's help lets the job start."""

_HELD = re.compile(r"held|hold|hold_?max", re.IGNORECASE)
_USED_UP = re.compile(r"Grp\w*(Minutes|Mins|Secs)\w*|^AssocGrpBilling\w*|UsageThreshold", re.IGNORECASE)
_TOO_MUCH = re.compile(
    r"PerJob|PerJobLimit|MaxWallDuration|^(QOS|Assoc)Min|^Partition(TimeLimit|NodeLimit|Config)|^MaxMemPerLimit"
    r"|^Partition(Time|Node)",
    re.IGNORECASE,
)
_NOT_ALLOWED = re.compile(r"NotAllowed|^Invalid(Account|QOS|Partition)|^QOSNot|^AccountingPolicy$|NotPermitted", re.I)
_IMPOSSIBLE = re.compile(r"^BadConstraints|^DependencyNeverSatisfied|^Constraints$|NeverSatisfied", re.IGNORECASE)
_BROKEN = re.compile(r"^(JobLaunchFailure|BurstBufferStageInFail|launch failed)|^InvalidBBSpec|StageInFail", re.I)

# The last resort names what may be read in several ways; the first that fits is taken.
_NEVER: tuple[tuple[re.Pattern[str], str], ...] = (
    (_HELD, "it is held; release it with `scontrol release {job}`, or cancel it"),
    (_USED_UP, "the account's or QOS's budget is used up; ask for more, or use another account"),
    (_TOO_MUCH, "it asks for more than a job may have there; ask for less, or change partition or qos of the block"),
    (_NOT_ALLOWED, "the account, qos or partition may not be used by it; correct the block"),
    (_IMPOSSIBLE, "no node can ever run it; see constraint, GPUs and memory that it asks for"),
    (_BROKEN, "Slurm could not launch it; see the cluster's logs"),
)

# Slurm's own words stay in front: they are what its manual and administrators know.
_WAITS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^Priority$"), "others come first"),
    (re.compile(r"^Resources$"), "nothing that fits is free"),
    (re.compile(r"^Partition(Down|Inactive)$"), "the partition is closed; ask its administrators, or name another"),
    (re.compile(r"^(ReqNodeNotAvail|NodeDown)"), "nodes that it needs are down, drained or reserved"),
    (re.compile(r"^Reservation"), "for its reservation to begin"),
    (re.compile(r"^Licenses"), "for a licence"),
    (re.compile(r"^(QOS|Assoc)(Max|Grp)"), "what the account or QOS may use at once is in use"),
    (re.compile(r"^JobArrayTaskLimit$"), "as many of its array run as may"),
    (re.compile(r"^BeginTime$"), "it was put back into the queue, and starts again soon"),
)


def plain_reason(said: str) -> str:
    """A reason as people read it: without the brackets of squeue's last column and scontrol's underscores."""
    text = said.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    return text.replace(",_", ", ").replace("_", " ") if ",_" in text or text.count("_") > 2 else text


def never_starts(reason: str) -> str:
    """Why a job with this pending reason will not start by itself, and what to do; empty if it just waits its turn.

    A reason that is not known is taken to be waiting: queueing is no failure.
    """
    text = plain_reason(reason)
    return next((why for pattern, why in _NEVER if pattern.search(text)), "")


def pending_detail(reason: str, job: str, *, held: bool = False) -> str:
    """What is said of a job that waits.

    Args:
        reason: as Slurm names it.
        job: its id, for the advice.
        held: whether its state alone says that it is held.
    """
    shown = plain_reason(reason)
    if shown in ("", "None"):
        shown = "JobHeld" if held else "no reason given"
    why = never_starts("JobHeld" if held else reason)
    if why:
        return f"{NEVER}: {shown}: {why.format(job=job)}"
    waits = next((f" ({text})" for pattern, text in _WAITS if pattern.search(shown)), "")
    return f"waits: {shown}{waits}"
