"""What it means that a program of Slurm's failed, by what it said (pure)."""

import re

from prefect_campaign.launch.ssh.errors import is_shortage
from prefect_campaign.model.errors import CampaignError, NoRoom, Refused, Transient, Unknown

# The controller may have taken the job although nobody heard of it: sbatch tries again by itself.
_NO_ANSWER = re.compile(
    r"Unable to contact|timed? ?out|Zero Bytes|Connection (refused|reset)|Transport endpoint|communication"
    r"|connect failure|Unspecified error|Protocol authentication|No route to host|backup controller"
    r"|Slurm backup|controller not responding|Unexpected message|Broken pipe|standby mode|Header lengths|SIGTERM",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(QOS|Assoc)\w*Submit\w*|MaxSubmitJobs|job submit limit(?! *, *user's size)|submit(ted)? job limit"
    r"|Job count|MaxJobCount|too many jobs|Slurm temporarily unable to accept|maximum number of jobs|"
    r"Resource temporarily unavailable|Reached .*limit.*submi",
    re.IGNORECASE,
)
_POLICY = re.compile(r"Job violates accounting/QOS policy", re.IGNORECASE)
_POLICY_NAMED = re.compile(r"\b((?:QOS|Assoc|Max|Min)[A-Z]\w+)")
_PASSING = re.compile(
    r"temporarily|try again|Socket (creation|bind)|slurmdbd|database|system (is )?(in )?maintenance|draining"
    r"|Munge|authentication|clock skew|Rewound credential|Expired credential|munged|credential|fork"
    r"|Partition .*(down|drain|inactive)|in state (DOWN|DRAIN|INACTIVE)|partition is (not up|down)",
    re.IGNORECASE,
)
_ARRAY = re.compile(r"Invalid job array spec", re.IGNORECASE)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|accounting_storage/none", re.IGNORECASE)
_PREFIX = re.compile(r"^(sbatch|squeue|sacct|scancel|scontrol|sinfo|srun|salloc): (error|fatal): ", re.IGNORECASE)
_UNINTERESTING = re.compile(r"^(sbatch|squeue|sacct|scancel|scontrol): (lua|info|debug)", re.IGNORECASE)

ADVICE = (
    (r"account/partition", "see `sacctmgr show assoc user=$USER`, then set `account` or `partition` of the block"),
    (r"partition", "see `sinfo`, then set `partition` of the block"),
    (r"account", "see `sacctmgr show assoc user=$USER`, then set `account` of the block"),
    (r"qos", "see `sacctmgr show qos`, then set `qos` of the block"),
    (r"time limit|wall", "ask for less time, or use another partition or qos"),
    (r"gres|gpu|generic resource", "see `sinfo -o '%P %G'`, then set `gpu_type` or `partition` of the block"),
    (r"feature|constraint", "see `sinfo -o '%P %f'`, then set `constraint` of the block"),
    (r"node configuration|memory|cpu count", "ask for less (cpus, memory, GPUs), or use another partition"),
    (r"unrecognized option|invalid option|unknown option", "correct `directives` of the block"),
)


class ArrayTooLarge(Transient):
    """The cluster takes no array of this size; nothing was submitted."""


class QueueFull(NoRoom):
    """A limit of submitted jobs is reached; nothing was submitted."""


def sbatch_failure(where: str, what: str, out: str, err: str) -> CampaignError:
    """The error for an sbatch that did not end with code 0.

    Args:
        where: name of the cluster.
        what: what was submitted.
        out: its stdout.
        err: its stderr.
    """
    said = f"{err}\n{out}"
    why = told(err) or told(out) or "it said nothing"
    text = f"{where}: sbatch: {what}: {why}"
    # First of all: an sbatch that was told to wait tries again, and the last try may not have been answered.
    if _NO_ANSWER.search(said):
        return Unknown(f"{text}; it will be looked for")
    if _ARRAY.search(said):
        return ArrayTooLarge(text)
    if is_submit_limit(said):
        return QueueFull(f"{text}; it is tried again when there is room")
    if _POLICY.search(said):
        return Refused(f"{text}; ask for less (time, GPUs, memory), or change `qos` or `partition` of the block")
    if _PASSING.search(said) or is_shortage(said):
        return Transient(text)
    if not said.strip():
        return Unknown(f"{text}; it will be looked for")
    advice = next((do for pattern, do in ADVICE if re.search(pattern, why, re.IGNORECASE)), "correct the block or spec")
    return Refused(f"{text}; {advice}")


def is_submit_limit(said: str) -> bool:
    """Whether there are too many jobs already, rather than too large a one."""
    if _POLICY.search(said):
        named = _POLICY_NAMED.findall(said)
        return any("Submit" in name or name in ("MaxJobCount",) for name in named) if named else True
    return bool(_LIMIT.search(said))


def is_no_answer(said: str) -> bool:
    """Whether the controller or the database was not heard, so that nothing is known."""
    return bool(_NO_ANSWER.search(said) or _PASSING.search(said))


def without_accounting(said: str) -> bool:
    """Whether the cluster keeps no accounts at all."""
    return bool(_NO_ACCOUNTING.search(said))


def told(err: str) -> str:
    """The line that says most, printable, without the program's name."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if _PREFIX.match(line)] or [li for li in lines if not _UNINTERESTING.match(li)]
    texts = list(dict.fromkeys(_PREFIX.sub("", line) for line in errors or lines))
    text = "; ".join([*texts[:1], *texts[-1:]] if len(texts) > 1 else texts)
    return "".join(c if c.isprintable() else " " for c in text)[:300]
