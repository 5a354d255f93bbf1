"""A Slurm cluster: everything a person says about it, checked before anything is sent there."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from prefect_campaign.model.errors import Refused

GpuRequest = Literal["gres", "gpus", "gpus-per-node", "gpus-per-task"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@%+-]*(,[A-Za-z0-9_][A-Za-z0-9_.:@%+-]*)*")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.&|,:*()\[\]+-]+")
_NODES = re.compile(r"[A-Za-z0-9_.,\[\]-]+")
_DIRECTIVE = re.compile(r"--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f]*)?")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

OURS = frozenset(
    {
        "array",
        "job-name",
        "output",
        "error",
        "input",
        "parsable",
        "wait",
        "wrap",
        "open-mode",
        "chdir",
        "test-only",
        "dependency",
        "hold",
        "quiet",
        "help",
        "usage",
        "version",
        "uid",
        "gid",
        "export",
        "export-file",
        "requeue",
        "no-requeue",
        "kill-on-invalid-dep",
        "clusters",
        "begin",
    }
)
"""Options of sbatch that the launcher sets itself, or that would break how it follows jobs."""

_FIELDS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclude": "exclude",
    "nodelist": "nodes",
    "container-image": "container_image",
    "container-mounts": "container_mounts",
}
"""Options of sbatch that have a field of their own."""

_WHOLE = frozenset({"container"})
"""Options of sbatch that begin like one of these, and are others."""


@dataclass(frozen=True)
class SlurmSettings:
    """One cluster. Whatever is left empty is what the cluster gives by default.

    Raises:
        Refused: at construction, if a field can never work.
    """

    name: str
    """The queue in tables and in the ledger: lower-case letters, digits, ``.`` and ``-``."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    nodes: str = ""
    """Nodes that every job gets, as Slurm writes lists of nodes."""
    exclude: str = ""
    """Nodes that no job may run on."""
    gpu_type: str = ""
    gpu_request: GpuRequest = "gres"
    """How GPUs are asked for: ``--gres=gpu:2`` is understood everywhere."""
    directives: tuple[str, ...] = ()
    """More options of sbatch, such as ``--mail-type=FAIL``."""
    modules: tuple[str, ...] = ()
    """Loaded before the experiment starts."""
    prologue: tuple[str, ...] = ()
    """Lines of sh that are run before the experiment starts; it fails if one of them fails."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables for experiments there; the campaign's own win."""
    inherit_environment: bool = True
    """Whether jobs get the environment of whoever submits them, as sbatch does by default."""
    container_image: str = ""
    """For ``sbatch --container-image`` (Pyxis)."""
    container_mounts: tuple[str, ...] = ()
    """``from:to[:flags]``, besides run dirs and working folder, which are mounted by themselves."""
    apptainer_image: str = ""
    """A file or URI that ``apptainer exec`` runs the experiment in."""
    apptainer_program: str = "apptainer"
    binds: tuple[str, ...] = ()
    """``from:to[:flags]`` for apptainer, besides run dir, checkpoints and working folder."""
    max_jobs: int = 1000
    """Jobs that may be in the queue at once, waiting and running."""
    array_size: int | None = None
    """Tasks of one array at most; None: as many as the cluster allows (MaxArraySize)."""
    array_limit: int | None = None
    """Tasks of one array that may run at once (``%n``); None: no limit."""
    requeue: bool = True
    """Whether Slurm may run a job again whose node died or that was preempted."""
    factor: float = 1.0
    programs: str = ""
    """Folder with sbatch, squeue and the others; empty: found on PATH."""
    conf: str = ""
    """Path of ``slurm.conf``; empty: as the environment says."""
    record_seconds: float = 20.0
    """How long the exit record of a job that left the queue may take to appear on a shared file system."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            self._refuse("name", f"{self.name!r} is not made of lower-case letters, digits, '.' and '-'")
        for what in ("partition", "account", "qos", "reservation", "gpu_type"):
            text = getattr(self, what)
            if text and not _WORD.fullmatch(text):
                self._refuse(what, f"{text!r} is no name of Slurm's")
        if self.constraint and not _CONSTRAINT.fullmatch(self.constraint):
            self._refuse("constraint", f"{self.constraint!r} is not made of features and & | , [ ] ( ) *")
        for what in ("nodes", "exclude"):
            text = getattr(self, what)
            if text and not _NODES.fullmatch(text):
                self._refuse(what, f"{text!r} is no list of nodes such as n1,gpu[01-04]")
        self._check_directives()
        for module in self.modules:
            if not _MODULE.fullmatch(module):
                self._refuse("modules", f"{module!r} is no name of a module")
        for line in self.prologue:
            if "\0" in line or "\r" in line:
                self._refuse("prologue", f"{line!r:.60} has a character that no shell line has")
        for name, value in self.env.items():
            if not _ENV_NAME.fullmatch(name) or "\0" in value:
                self._refuse("env", f"{name!r} is not a variable name; use letters, digits and '_'")
        self._check_containers()
        if self.max_jobs < 1:
            self._refuse("max_jobs", f"{self.max_jobs} is less than 1")
        for what in ("array_size", "array_limit"):
            if getattr(self, what) is not None and getattr(self, what) < 1:
                self._refuse(what, f"{getattr(self, what)} is less than 1")
        if not self.factor > 0:
            self._refuse("factor", f"{self.factor} is not more than 0")
        if not self.record_seconds >= 0:
            self._refuse("record_seconds", f"{self.record_seconds} is less than 0")
        for what in ("programs", "conf"):
            path = getattr(self, what)
            if path and not PurePosixPath(path).is_absolute():
                self._refuse(what, f"{path!r} is not an absolute path")

    def _check_directives(self) -> None:
        for directive in self.directives:
            if not _DIRECTIVE.fullmatch(directive):
                self._refuse("directives", f"{directive!r} is not written as --name or --name=value")
            option = directive[2:].partition("=")[0]
            if option in OURS:
                self._refuse("directives", f"--{option} is set by the launcher; leave it out")
            if option in _FIELDS:
                self._refuse("directives", f"--{option} has a field of its own: {_FIELDS[option]}")
            # sbatch takes the beginning of an option's name for the option.
            meant = sorted(name for name in (*OURS, *_FIELDS, "comment") if name.startswith(option) and name != option)
            if meant and option not in _WHOLE:
                self._refuse("directives", f"--{option} would be taken for --{meant[0]}; write options in full")

    def _check_containers(self) -> None:
        if self.container_image and self.apptainer_image:
            self._refuse("apptainer_image", "and container_image are two ways of one thing; use one")
        for what in ("container_image", "apptainer_image", "apptainer_program"):
            text = getattr(self, what)
            if _CONTROL.search(text) or text.startswith("-"):
                self._refuse(what, f"{text!r} is no image or program")
        for what in ("container_mounts", "binds"):
            for mount in getattr(self, what):
                source, _, target = mount.partition(":")
                if not source or "," in mount or _CONTROL.search(mount) or (":" in mount and not target):
                    self._refuse(what, f"{mount!r} is not written as from:to or from:to:ro")

    def _refuse(self, what: str, why: str) -> None:
        raise Refused(f"Slurm cluster {self.name!r}: {what}: {why}")
