"""The script that PBS is given: directives, and a line that runs the attempt's own `job.sh` (pure)."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from prefect_campaign.launch.pbs.qstat import MARK, TOKEN
from prefect_campaign.launch.queue.jobs import job_mark
from prefect_campaign.launch.script import SCRIPT_NAME, Scheduled, job_script
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import AttemptSpec

BATCH_NAME = "job.pbs"
LOG_NAME = "scheduler.log"
"""What PBS itself writes about a job, such as that it killed it."""

_JOB = "${PBS_JOBID:-}"
_AGAIN = "$(uname -n).$$.$(date +%s)"
"""PBS does not tell a job how often it was run; no two runs have all of these in common."""

_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._+=@%-]*")
# Arrays, names, variables, holds, logs, other shells, answers without an id or that come when the job has ended.
_OURS = frozenset("JtNvhoeSIzC")
_FLAGS = frozenset("EfhInVXxz")
"""Options of qsub, of any release, that are not followed by a value."""
_BLOCK = re.compile(r"\bblock\b")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]*")
_TOKEN = re.compile(r"[A-Za-z0-9._-]+")

# Where `module` is a function of the log-in shell, the job must find it by itself.
_MODULES = """\
    if ! command -v module >/dev/null 2>&1; then
        for pc_init in "${{MODULESHOME:-/none}}/init/sh" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh \\
            /usr/share/lmod/lmod/init/sh /usr/share/modules/init/sh /usr/share/Modules/init/sh; do
            [ -r "$pc_init" ] && . "$pc_init" && break
        done
    fi
    module load {names} || {{
        echo {failed} >&2
        exit 126
    }}
"""


@dataclass(frozen=True)
class PbsRequest:
    """What is asked of PBS for every job, besides what the attempt says. An empty field leaves it to PBS.

    Raises:
        Refused: at construction, if a field can never work.
    """

    queue: str = ""
    project: str = ""
    account: str = ""
    storage: tuple[str, ...] = ()
    """File systems that the job mounts, for sites that want them named: ``-l storage=a+b``."""
    style: Literal["select", "plain", "nodes"] = "select"
    """How processors, GPUs and memory are asked for: PBS Pro's chunks, single resources, or Torque's nodes."""
    chunk: str = ""
    """What else each chunk must have: ``gpu_model=a100``."""
    place: str = ""
    disk: str = ""
    """Name of the site's resource for local disk, such as ``jobfs``; empty: disk is not asked for."""
    memory_mb: int | None = None
    """For attempts that do not say."""
    rerun: bool = True
    """Whether PBS may run a job again by itself when its node fails."""
    modules: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    """More of qsub's options, such as ``-l gpu_type=a100``."""

    def __post_init__(self) -> None:
        words = {name: [one] for name in ("queue", "project", "account", "disk") if (one := getattr(self, name))}
        for what, texts in {**words, "storage": self.storage, "modules": self.modules}.items():
            for text in texts:
                if not _WORD.fullmatch(text):
                    raise Refused(f"PBS: {what}: {text!r} is not one word of letters, digits and ._@:/+-")
        for what, text in (("chunk", self.chunk), ("place", self.place)):
            if not _LINE.fullmatch(text) or re.search(r"\s", text):
                raise Refused(f"PBS: {what}: {text!r} has blanks in it")
        for text in self.directives:
            if not _LINE.fullmatch(text) or not text.startswith("-"):
                raise Refused(f"PBS: directives: {text!r} is no option of qsub; write each like '-l name=value'")
            for letter, value in _options(text):
                if letter in _OURS or (letter == "W" and _BLOCK.search(value)):
                    raise Refused(f"PBS: directives: {text!r} cannot be set here; the launcher needs it otherwise")
                if letter == "r":
                    raise Refused(f"PBS: directives: {text!r} has a field of its own: rerun")


def _options(text: str) -> list[tuple[str, str]]:
    """The options in one line with their values, as qsub reads them: ``-l a=1 -VhJ0-9`` has ``l``, ``V``, ``h``, ``J``.

    Raises:
        Refused: qsub could not read it, or would read a word of it as something else than an option.
    """
    found: list[tuple[str, str]] = []
    try:
        words = shlex.split(text)
    except ValueError:
        raise Refused(f"PBS: directives: {text!r} has quotes that do not match") from None
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word.startswith("--") or word == "-":
            raise Refused(f"PBS: directives: {text!r}: {word!r} is no option of qsub; write each like '-l name=value'")
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            value = ""
            if letter not in _FLAGS:
                value, letters = letters or (words.pop(0) if words else ""), ""
            found.append((letter, value))
    return found


def job_name(token: str) -> str:
    """The job's name in PBS: 15 characters, which is all that older releases take; the same for the same token."""
    return f"pc-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def pbs_files(spec: AttemptSpec, request: PbsRequest) -> dict[str, str]:
    """The attempt's `job.sh`, and the script that is handed to qsub.

    Raises:
        Refused: it can never be run.
    """
    if not _TOKEN.fullmatch(spec.token):
        raise Refused(f"{spec.exp_id}: token {spec.token!r} cannot be given to PBS")
    scheduled = Scheduled(_JOB, _AGAIN, _modules(request.modules))
    # Where it asks for no GPU, a cluster that does not fence them off would show it all of them.
    script = job_script(spec, gpus_given=spec.gpu_count > 0, scheduled=scheduled)
    directives = [*_identity(spec), *_resources(spec, request), *request.directives]
    lines = ["#!/bin/sh", *(f"#PBS {line}" for line in directives)]
    lines += ["", f"exec /bin/sh {quote(f'{spec.run_dir}/{SCRIPT_NAME}')}"]
    return {SCRIPT_NAME: script, BATCH_NAME: "".join(f"{line}\n" for line in lines)}


def _identity(spec: AttemptSpec) -> list[str]:
    log = f"{spec.run_dir}/{LOG_NAME}"
    out = log if _PLAIN_PATH.fullmatch(log) else "/dev/null"
    variables = f"{TOKEN}={spec.token},{MARK}={job_mark(spec.run_dir)}"
    return [f"-N {job_name(spec.token)}", "-S /bin/sh", f"-v {variables}", "-j oe", f"-o {out}", "-m n"]


def _resources(spec: AttemptSpec, request: PbsRequest) -> list[str]:
    memory = spec.memory_mb or request.memory_mb
    lines = []
    if request.queue:
        lines.append(f"-q {request.queue}")
    if request.project:
        lines.append(f"-P {request.project}")
    if request.account:
        lines.append(f"-A {request.account}")
    if request.style == "nodes":
        gpus = f":gpus={spec.gpu_count}" if spec.gpu_count else ""
        chunk = f":{request.chunk}" if request.chunk else ""
        lines.append(f"-l nodes=1:ppn={spec.cpus or 1}{gpus}{chunk}")
        lines += [f"-l mem={memory}mb"] if memory else []
    else:
        wanted = [f"ncpus={spec.cpus or 1}"]
        wanted += [f"ngpus={spec.gpu_count}"] if spec.gpu_count else []
        wanted += [f"mem={memory}mb"] if memory else []
        if request.style == "select":
            wanted += [request.chunk] if request.chunk else []
            lines.append(f"-l select=1:{':'.join(wanted)}")
        else:
            lines += [f"-l {one}" for one in wanted]
    if request.place:
        lines.append(f"-l place={request.place}")
    if spec.wall_minutes:
        lines.append(f"-l walltime={walltime(spec.wall_minutes)}")
    if request.storage:
        lines.append(f"-l storage={'+'.join(request.storage)}")
    if request.disk and spec.disk_mb:
        lines.append(f"-l {request.disk}={spec.disk_mb}mb")
    if not request.rerun:
        lines.append("-r n")
    return lines


def walltime(minutes: int) -> str:
    """``HH:MM:SS``."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _modules(modules: Sequence[str]) -> str:
    if not modules:
        return ""
    names = " ".join(map(quote, modules))
    return _MODULES.format(names=names, failed=quote(f"job.sh: module load {names} failed"))
