"""What a failed call of PBS's commands means, by its exit code and what it said (pure).

Exit codes are PBS's error numbers (from 15000) modulo 256. Who asks for a job and is refused for good is told so; that
the server cannot be asked at all must never look like that.
"""

import re
from typing import Literal

from prefect_campaign.launch.pbs.qstat import read_qstat
from prefect_campaign.launch.queue.jobs import Said

Failure = Literal["away", "full", "history", "usage", "refused"]
"""`away`: the server cannot be asked, now. `full`: there is no room for one more job, now. `history`: it keeps no
history of jobs. `usage`: this release does not know the option. `refused`: it was asked and said no."""

_AWAY_CODES = frozenset(number % 256 for number in (15010, 15019, 15020, 15033, 15060, 15117, 15208))
"""System error, credentials (a key service that is away looks so too), no connection free, shutting down, try again."""
_AWAY = re.compile(
    r"cannot connect|could not connect|connection (refused|timed out|reset)|timed? ?out|no route to host"
    r"|communication failure|end of file|cannot send|premature end|temporary failure|name or service not known"
    r"|pbs_iff|reserved ports|invalid credential|expired credential|munge|no free connections|connection table full"
    r"|shutting down|try (the request )?again|resource temporarily unavailable|no default server|unknown host"
    r"|server closed|connection (was )?closed|closed (the )?connection|broken pipe|internal (server )?error"
    r"|system error",
    re.IGNORECASE,
)
_NOT_AWAY = re.compile(r"access from host not allowed", re.IGNORECASE)
_CLEARLY_NOT = re.compile(
    r"cannot connect|could not connect|connection refused|no route to host|name or service not known|unknown host"
    r"|no default server|pbs_iff|reserved ports|invalid credential|expired credential|munge|no free connections"
    r"|connection table full|shutting down",
    re.IGNORECASE,
)
_CUT_OFF_CODES = frozenset({124, 137, 143})
"""Of a command that was ended from outside; nothing of ours: with a reason beside it, it is PBS's."""
_CUT_OFF = re.compile(r"(.{0,200}: +)?(\d+ )?(Killed|Terminated)( {2,}.*)?")
_FULL = re.compile(
    r"would exceed .{0,80}limit|maximum number of jobs|max_queued|too many jobs|limit .{0,40}(reached|exceeded)",
    re.IGNORECASE,
)
_HISTORY = re.compile(r"not configured to maintain job history", re.IGNORECASE)
_USAGE = re.compile(
    r"invalid option|unrecognized option|illegal option|unknown option|conflicting options|^usage:",
    re.IGNORECASE | re.MULTILINE,
)


def failure_of(said: Said) -> Failure:
    """What kind of failure it is."""
    text = _complaint(said)
    if _HISTORY.search(text):
        return "history"
    if _USAGE.search(text):
        return "usage"
    if _FULL.search(text):
        return "full"
    if not _NOT_AWAY.search(text) and (_AWAY.search(text) or said.code in _AWAY_CODES):
        return "away"
    return "refused"


def is_in_doubt(said: Said) -> bool:
    """Whether a qsub that failed may have handed its job over: the line broke, or it was ended from outside."""
    if failure_of(said) == "away":
        return not _CLEARLY_NOT.search(_complaint(said))
    # A shell that ran it for us says so in a word of its own.
    silent = not said.err.strip() or _CUT_OFF.fullmatch(said.err.strip()) is not None
    return silent and (said.code < 0 or said.code in _CUT_OFF_CODES)


def _complaint(said: Said) -> str:
    """What the command itself says. A list of jobs is none: its names and comments are other people's words."""
    if said.err.strip():
        return said.err
    return "" if read_qstat(said.out) else said.out


def reason(said: Said) -> str:
    """What the command complains of, without its own name in front."""
    return re.sub(r"^(qsub|qstat|qdel|qselect): *", "", said.why)
