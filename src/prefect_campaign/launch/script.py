"""The job script: POSIX sh that claims its run dir, runs the command and records how it ended (pure)."""

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from prefect_campaign.launch.gpus.visible import ORDER, PCI_ORDER, VISIBLE, visible_value
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.spec import ENV_NAME
from prefect_campaign.model.text import unfit

DUPLICATE_EXIT = 75
"""Exit code of a job script that found its run dir claimed by another."""

SCRIPT_NAME = "job.sh"
CLAIM_NAME = "claim"
RECORD_NAME = "status.json"
STDOUT_NAME = "stdout.log"
STDERR_NAME = "stderr.log"
CONTAINER_NAME = "container.json"
"""What the Docker launcher notes of the container, before it is started."""

_LONGEST_STRING = 131_071
"""Bytes. Linux's MAX_ARG_STRLEN without the final NUL: one argument or NAME=value may not be longer."""

# Shell variables start with pc_: another name might be an exported variable of the person who runs this.
# The exports are made in the child alone, so that a PATH of the spec cannot hide mkdir and mv.
_TEMPLATE = """\
#!/bin/sh
pc_run={run_dir}
pc_token={token}

# The claim: of two scripts in one run dir only one gets past this line.
mkdir "$pc_run/claim" 2>/dev/null || {{
    [ -d "$pc_run/claim" ] || exit 73
{taken}
}}
{owned}echo "$$" >"$pc_run/claim/pid"
exec </dev/null >>"$pc_run/stdout.log" 2>>"$pc_run/stderr.log"

pc_record() {{
    trap '' HUP INT TERM USR1 USR2
    pc_more=
{still_owned}    printf '{{"state":"exited","exit_code":%d,"token":%s%s}}\\n' "$1" "$pc_token" "$pc_more" \\
        >"$pc_run/status.json.new" || exit 74
    mv -f "$pc_run/status.json.new" "$pc_run/status.json" || exit 74
    exit "$1"
}}

# A background child of sh ignores INT, so every signal is handed on as TERM.
pc_stop() {{
    {may_stop}: >"$pc_run/claim/stop"
    [ -n "$!" ] || pc_record 143
    pc_signalled=1
    kill -TERM "$!" 2>/dev/null
}}
# Schedulers warn by these before they stop a job, if they are asked to: they are for the command alone.
pc_hand_on() {{
    pc_signalled=1
    [ -z "$!" ] || kill -s "$1" "$!" 2>/dev/null
}}
pc_signalled=
trap pc_stop HUP INT TERM
trap 'pc_hand_on USR1' USR1
trap 'pc_hand_on USR2' USR2

{{
{exports}
{before}    cd -- {workdir} || {{
        printf '%s\\n' {no_workdir} >&2
        exit 126
    }}
    # A child that was forked but still has its parent's traps loses a signal; the file does not get lost.
    [ -e "$pc_run/claim/stop" ] && exit 143
    exec {argv}
}} &
wait "$!"
pc_code=$?
# A signal cuts wait short: wait again for the child's own code (127, or -1 in bash: it was fetched already).
while [ -n "$pc_signalled" ]; do
    pc_signalled=
    wait "$!" 2>/dev/null
    pc_again=$?
    case $pc_again in
    127 | -*) ;;
    *) pc_code=$pc_again ;;
    esac
done
pc_record "$pc_code"
"""

_TAKEN = """\
    exit {duplicate}"""

# The scheduler ran this very job before and runs it again: it goes on in its own run dir, unless it ended by itself.
_TAKEN_AGAIN = """\
    pc_owner=
    read -r pc_owner pc_before 2>/dev/null <"$pc_run/claim/job"
    [ -n "$pc_job" ] && [ "$pc_owner" = "$pc_job" ] || exit {duplicate}
    [ ! -e "$pc_run/status.json" ] || [ -e "$pc_run/claim/stop" ] || exit {duplicate}
    mkdir "$pc_run/claim/again-$pc_try" 2>/dev/null || exit {duplicate}
    mv -f "$pc_run/status.json" "$pc_run/status.json.before-$pc_try" 2>/dev/null
    rm -f "$pc_run/claim/stop"
"""

# Renamed into place, so that nobody reads half of it. "-" stands for an id that the scheduler did not give.
_OWNED = """\
echo "${{pc_job:--}} $pc_try" >"$pc_run/claim/job.$$" && mv -f "$pc_run/claim/job.$$" "$pc_run/claim/job" || exit 73
# A run of this job that its scheduler gave up for dead (a node without network) must not speak for the present one.
pc_owned() {{
    pc_owner= pc_now=
    read -r pc_owner pc_now 2>/dev/null <"$pc_run/claim/job"
    [ "$pc_owner $pc_now" = "${{pc_job:--}} $pc_try" ]
}}
"""

_MAY_STOP = "! pc_owned || "

# The record says itself that its run was stopped: over a network it may be seen before the file `stop` is.
_STILL_OWNED = """\
    pc_owned || exit {duplicate}
    # The scheduler's TERM may have ended the command before this script got its own.
    [ "$1" -le 128 ] || : >"$pc_run/claim/stop"
    [ ! -e "$pc_run/claim/stop" ] || pc_more=',"stopped":true'
"""


@dataclass(frozen=True)
class Scheduled:
    """What is different in a job that a scheduler starts, perhaps more than once. All are lines or words of sh."""

    job: str
    """Words that give the scheduler's id of the job."""
    again: str
    """Words that give another value whenever the scheduler runs the job again, such as a count of restarts."""
    before: str = ""
    """Lines to run in the job's own process before its command."""


def job_script(spec: AttemptSpec, *, gpus_given: bool = False, scheduled: Scheduled | None = None) -> str:
    """Text of the attempt's `job.sh`; it needs nothing but a POSIX sh, mkdir, mv and rm.

    Args:
        spec: the attempt.
        gpus_given: whether a scheduler or a container gives the job its GPUs and says which; else the lease does.
        scheduled: set where a scheduler may run the same job again after it stopped it (requeue, preemption): only
            that job takes its own claim over, and only if it was stopped or left no record.

    The script exits with the command's own code; 126 if the working folder cannot be entered (said on
    stderr.log), 73 if the run dir cannot be claimed, 74 if the exit record cannot be written, and
    `DUPLICATE_EXIT` if another script has claimed the run dir.

    Raises:
        Refused: an empty command, a bad variable name, or a value that no process can be given.
    """
    environment = job_environment(spec, gpus_given=gpus_given)
    _check(spec, environment)
    taken, owned, still_owned, may_stop, before = _TAKEN, "", "", "", ""
    if scheduled is not None:
        taken, owned, still_owned, may_stop = _TAKEN_AGAIN, _OWNED, _STILL_OWNED, _MAY_STOP
        before = scheduled.before
    names = "" if scheduled is None else f"pc_job={scheduled.job}\npc_try={scheduled.again}\n"
    return _TEMPLATE.format(
        run_dir=quote(spec.run_dir),
        token=f"{quote(json.dumps(spec.token))}\n{names}".rstrip("\n"),
        duplicate=DUPLICATE_EXIT,
        taken=taken.format(duplicate=DUPLICATE_EXIT).rstrip("\n"),
        owned=owned.format(),
        still_owned=still_owned.format(duplicate=DUPLICATE_EXIT),
        may_stop=may_stop,
        before=before,
        exports="\n".join(f"    export {name}={quote(value)}" for name, value in environment.items()),
        workdir=quote(spec.workdir),
        no_workdir=quote(f"job.sh: cannot enter the working folder {spec.workdir}; does it exist on this host?"),
        argv=" ".join(map(quote, spec.argv)),
    )


def job_environment(spec: AttemptSpec, *, gpus_given: bool = False) -> dict[str, str]:
    """What the job finds in its environment besides what it inherits.

    The spec's own variables win over the W&B defaults, and never over ``CAMPAIGN_*`` and the choice of GPUs: a job
    sees those that are leased for it, and without a lease none, lest it takes somebody else's. Where they are given to
    it (`gpus_given`), the host's names for them mean nothing inside.
    """
    visible = {} if gpus_given else {VISIBLE: visible_value(spec.gpus), ORDER: PCI_ORDER}
    return {
        "WANDB_RUN_ID": spec.token,
        "WANDB_DIR": spec.run_dir,
        **spec.env,
        "CAMPAIGN_RUN_DIR": spec.run_dir,
        "CAMPAIGN_EXP_ID": spec.exp_id,
        "CAMPAIGN_ATTEMPT": str(spec.attempt),
        "CAMPAIGN_CHECKPOINT_DIR": spec.checkpoint_dir,
        "CAMPAIGN_SEED": str(spec.seed),
        **visible,
    }


def _check(spec: AttemptSpec, environment: dict[str, str]) -> None:
    if not spec.argv or not spec.argv[0]:
        raise Refused(f"{spec.exp_id}: command: is empty; name a program to run")
    if spec.argv[0].startswith("-"):
        raise Refused(f"{spec.exp_id}: command: {spec.argv[0]!r} is an option, not a program")
    if not Path(spec.run_dir).is_absolute():
        raise Refused(f"{spec.exp_id}: run dir {spec.run_dir!r} is not an absolute path")
    for name in environment:
        if not ENV_NAME.fullmatch(name):
            raise Refused(f"{spec.exp_id}: env: {name!r} is not a variable name; use letters, digits and '_'")
    _check_text(spec, "token", spec.token)
    _check_text(spec, "workdir", spec.workdir)
    for index, word in enumerate(spec.argv):
        _check_text(spec, f"command: word {index}", word)
    for name, value in environment.items():
        _check_text(spec, f"env: {name}", f"{name}={value}")


def _check_text(spec: AttemptSpec, where: str, text: str) -> None:
    if why := unfit(text):
        raise Refused(f"{spec.exp_id}: {where}: {why}")
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > _LONGEST_STRING:
        raise Refused(
            f"{spec.exp_id}: {where}: is {size} bytes, more than a program can be given ({_LONGEST_STRING}); "
            "put it in a file"
        )
