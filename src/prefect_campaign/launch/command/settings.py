"""A platform that people describe by its commands: templates to ask, patterns to read the answers (pure)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_campaign.launch.command.template import Template
from prefect_campaign.launch.queue.jobs import Entry
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import UNKNOWN_WALL_MINUTES
from prefect_campaign.model.text import printable

Meaning = Literal[
    "pending", "held", "running", "ended", "failed", "cancelled",
    "timeout", "out_of_memory", "node_failure", "preempted", "gone",
]  # fmt: skip
"""What a word for a state may mean. `ended` and `failed`: it is over, and its own record says how. `gone`: it is as if
the job had never been there."""

_OVER: dict[str, str] = {
    "ended": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "timeout": "TIMEOUT",
    "out_of_memory": "OUT_OF_MEMORY",
    "node_failure": "NODE_FAIL",
    "preempted": "PREEMPTED",
}
MEANINGS = ("pending", "held", "running", *_OVER, "gone")

FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "submit": (
        (
            "script", "name", "token", "exp_id", "attempt", "run_dir", "workdir", "gpus", "cpus", "memory_mb",
            "shm_mb", "disk_mb", "minutes", "walltime", "mark",
        ),
        ("script",),
    ),
    "status": (("ids", "names"), ()),
    "cancel": (("id", "ids", "name", "names"), ("id", "ids", "name", "names")),
    "logs": (("id", "name", "run_dir"), ("id", "name")),
    "find": (("name",), ("name",)),
}  # fmt: skip
"""Command -> the fields that it may use besides ``image``, ``storage`` and the block's own, and those of which it must
use one."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GROUPS = frozenset({"id", "state", "name", "node", "reason", "mark"})


@dataclass(frozen=True)
class CommandSettings:
    """How a platform is asked, and how its answers are read.

    Raises:
        Refused: at construction, if something in it can never work; the message names the field.
    """

    submit: str | Sequence[str]
    status: str | Sequence[str]
    cancel: str | Sequence[str]
    states: Mapping[str, str]
    """Their word for a state, in any case -> what it means, one of `MEANINGS`."""
    job_pattern: str
    """Regular expression for one job in the answer to `status`, with the groups ``id`` (or ``name``) and ``state``,
    and if there are such ``name``, ``mark``, ``node`` and ``reason``."""
    id_pattern: str = r"(?P<id>\S+)\s*\Z"
    """Regular expression for the id in the answer to `submit`, with the group ``id``; empty: jobs are known by the
    name that they are given."""
    logs: str | Sequence[str] = ()
    """Prints what the platform itself has on a job; empty: nothing does."""
    find: str | Sequence[str] = ()
    """Prints the jobs with one name, in the form of `status`; empty: `status` is looked through, if it shows names."""
    whole_pattern: str = ""
    """What every whole answer to `status` has in it, such as a heading; one without it is not believed."""
    busy_pattern: str = ""
    """What a failed `submit` says if the job was not taken now, but may be later."""
    image: str = ""
    storage: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of the block's own for the templates."""
    memory_mb: int = 0
    """For attempts that do not say."""
    minutes: int = UNKNOWN_WALL_MINUTES
    """For attempts that do not say."""
    seconds: float = 120.0
    """After which a command is given up."""
    job_id_variable: str = ""
    """Variable in which the platform tells a job its id; then a job that it runs again may go on in its run dir."""

    def __post_init__(self) -> None:
        for name in self.fields:
            if not _NAME.fullmatch(name) or any(name in known for known, _ in FIELDS.values()):
                raise Refused(f"fields: {name!r} is not a name of its own; use letters, digits and '_'")
        for what in FIELDS:
            if getattr(self, what):
                self.template(what)
            elif what not in ("logs", "find"):
                raise Refused(f"{what}: is empty; write the platform's command")
        if not self.id_pattern and not self.template("submit").fields & {"name", "token"}:
            raise Refused("submit: gives no {name}, but without id_pattern jobs are known by their name")
        self._check_patterns()
        for word, meaning in self.states.items():
            if meaning not in MEANINGS:
                raise Refused(f"states: {word!r} means {meaning!r}, which is none of {', '.join(MEANINGS)}")
        if not self.states:
            raise Refused("states: is empty; say what the platform's words for states mean")
        if self.shows_marks and "mark" not in self.template("submit").fields:
            raise Refused("job_pattern: has a group 'mark', but submit gives no {mark}; put it where lists show it")
        if self.job_id_variable and not _NAME.fullmatch(self.job_id_variable):
            raise Refused(f"job_id_variable: {self.job_id_variable!r} is not a variable name")

    def template(self, what: str) -> Template:
        """One of the commands.

        Raises:
            Refused: it can never be filled.
        """
        known, needed = FIELDS[what]
        return Template(what, getattr(self, what), {*known, *self.fields, "image", "storage"}, needed)

    def _check_patterns(self) -> None:
        for what in ("job_pattern", "id_pattern", "whole_pattern", "busy_pattern"):
            try:
                found = set(re.compile(getattr(self, what), re.MULTILINE).groupindex)
            except re.error as error:
                raise Refused(f"{what}: {error} in {getattr(self, what)!r}") from None
            if what == "id_pattern" and self.id_pattern and found != {"id"}:
                raise Refused("id_pattern: needs one named group, (?P<id>...)")
            if what == "job_pattern":
                known_by = "id" if self.id_pattern else "name"
                if not found >= {known_by, "state"}:
                    raise Refused(f"job_pattern: needs the named groups (?P<{known_by}>...) and (?P<state>...)")
                if strange := sorted(found - _GROUPS):
                    raise Refused(f"job_pattern: group {strange[0]!r} means nothing; known are {', '.join(_GROUPS)}")

    @property
    def shows_names(self) -> bool:
        """Whether a job can be told by its name in a list."""
        return "name" in re.compile(self.job_pattern).groupindex

    @property
    def shows_marks(self) -> bool:
        """Whether a list tells a job from one of the same name in another campaign home."""
        return "mark" in re.compile(self.job_pattern).groupindex


@dataclass(frozen=True)
class Row:
    """One job in a list."""

    job_id: str
    name: str | None
    word: str
    """The platform's word for its state."""
    mark: str | None
    entry: Entry | None
    """None: the platform's word for its state means that it is as good as not there."""


def read_rows(out: str, settings: CommandSettings) -> list[Row] | None:
    """The jobs in a list; None if it is not whole. A state that is not known is unclear, and never an end."""
    if settings.whole_pattern and not re.search(settings.whole_pattern, out, re.MULTILINE):
        return None
    meanings = {word.casefold(): meaning for word, meaning in settings.states.items()}
    found = []
    for match in re.finditer(settings.job_pattern, out, re.MULTILINE):
        groups = {name: (value or "").strip() for name, value in match.groupdict().items()}
        name = groups.get("name")
        job_id = (groups["id"] if settings.id_pattern else name) or ""
        word = groups["state"]
        if job_id:
            found.append(
                Row(job_id, name, word, groups.get("mark"), _entry(job_id, word, meanings.get(word.casefold()), groups))
            )
    return found


def _entry(job_id: str, word: str, meaning: str | None, groups: Mapping[str, str]) -> Entry | None:
    shown = printable(f"{word} {groups.get('reason', '')}")[:300]
    node = printable(groups.get("node", "")).strip("-")[:100]
    if meaning is None:
        return Entry(job_id, "unclear", detail=f"its state is {shown!r}, which the block's `states` do not explain")
    if meaning == "gone":
        return None
    if meaning in ("pending", "held"):
        return Entry(job_id, "pending", detail=shown, stuck=meaning == "held")
    if meaning == "running":
        return Entry(job_id, "running", detail=shown, node=node)
    return Entry(job_id, "ended", _OVER[meaning], shown, node=node, oom_killed=meaning == "out_of_memory")


def read_id(out: str, settings: CommandSettings) -> str:
    """The id in the answer to `submit`; empty if there is none, or more than one."""
    found = {match["id"].strip() for match in re.finditer(settings.id_pattern, out, re.MULTILINE)}
    return found.pop() if len(found) == 1 else ""
