"""What is asked of another host, and how its answers are read (pure)."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote

from prefect_campaign.launch import tmux
from prefect_campaign.launch.process import Process
from prefect_campaign.launch.ssh.remote_paths import Facts
from prefect_campaign.launch.ssh.remote_shell import (
    FACTS,
    FIND,
    LIBRARY,
    OBSERVE,
    PLAIN_LAUNCH,
    PROCESSES,
    SET_ASIDE,
    SIGNAL,
    START,
    TMUX_LAUNCH,
)
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import AttemptSpec

_NAMES = "pc_names"


@dataclass(frozen=True)
class Job:
    """A job on the host, by what its handle says of it."""

    run_dir: str
    pid: int | None
    start_ticks: int | None
    boot_id: str

    def words(self) -> str:
        """As arguments of the scripts' functions."""
        numbers = ("" if n is None else str(n) for n in (self.pid, self.start_ticks))
        return " ".join(map(quote, (self.run_dir, *numbers, self.boot_id)))


@dataclass(frozen=True)
class Seen:
    """What the host says of one job."""

    alive: bool
    rest: bool = False
    """Whether `job.sh` is dead, but other processes of the job live."""
    claimed: bool = False
    folder: bool = True
    """Whether its run dir is there."""
    record: bytes | None = None
    """Content of its exit record, cut at `LARGEST_RECORD` bytes."""
    recorded_at: float | None = None
    """When the record was written, in seconds since the epoch, if the host can tell."""
    quiet_seconds: float | None = None
    """For how long a living job wrote to no log and no metric file, if the host can tell."""


def facts_script() -> str:
    """Ask for the host's `Facts`."""
    return LIBRARY + FACTS


def read_facts(answer: str) -> Facts:
    """The facts in an answer.

    Raises:
        Transient: something is missing in it.
    """
    found: dict[str, str] = {}
    programs = set()
    for key, value in _pairs(answer):
        if key == "has":
            programs.add(value)
        else:
            found[key] = value
    try:
        return Facts(
            home=_text(found["home"]),
            path=_text(found["path"]),
            processors=max(1, int(found["processors"])),
            boot_id=found["boot"],
            clock=float(found["clock"]),
            programs=frozenset(programs),
        )
    except (KeyError, ValueError) as error:
        raise Transient(f"what the host says of itself cannot be understood ({error!r})") from error


def start_script(there: AttemptSpec, script: str, code: str, *, in_tmux: bool) -> str:
    """Write `job.sh` into the run dir and start it, unless the run dir is claimed already.

    Args:
        there: the attempt with the host's paths.
        script: text of its `job.sh`.
        code: folder of the copied code, which must be there; empty if it uses none.
        in_tmux: whether to start it inside tmux.
    """
    launch = PLAIN_LAUNCH
    if in_tmux:
        argv = tmux.start_argv(there.token, there.run_dir, [_NAMES])
        command = " ".join('"$pc_names"' if word == _NAMES else quote(word) for word in argv)
        launch = TMUX_LAUNCH.format(command=command, server=tmux.SERVER)
    size = len(script.encode("utf-8", "surrogateescape"))
    words = " ".join(map(quote, (there.run_dir, there.checkpoint_dir, script, str(size), code)))
    return f"{LIBRARY}{START}{launch}pc_start_job {words}"


def observe_script(root: str, jobs: Sequence[Job]) -> str:
    """Look at many jobs; the answer names each by its place in the sequence."""
    calls = "\n".join(f"pc_observe {number} {job.words()}" for number, job in enumerate(jobs))
    return f"{LIBRARY}{OBSERVE}[ -d {quote(root)} ] || echo no-root\n{calls}"


def read_observed(answer: str, count: int) -> list[Seen | None] | None:
    """What is said of each job, None where nothing is; None for all if the work folder itself is missing."""
    found: list[Seen | None] = [None] * count
    for line in answer.splitlines():
        words = line.split()
        if words == ["no-root"]:
            return None
        if len(words) < 2 or not words[0].isdecimal() or int(words[0]) >= count:
            continue
        flags = set(words[1:])
        record = recorded_at = None
        if words[1] == "record":
            try:
                record = bytes.fromhex(words[3] if len(words) > 3 else "")
                recorded_at = None if words[2] == "-" else float(words[2])
            except (ValueError, IndexError):
                continue
        alive, rest, claimed = (name in flags for name in ("alive", "rest", "claimed"))
        folder, quiet = "no-folder" not in flags, _quiet(words)
        found[int(words[0])] = Seen(alive, rest, claimed, folder, record, recorded_at, quiet)
    return found


def find_script(run_dir: str) -> str:
    """Look for the job of a run dir."""
    return f"{LIBRARY}{FIND}pc_find {quote(run_dir)}"


def scan_script(job: Job) -> str:
    """Look for all processes of the job and of the host."""
    return f"{LIBRARY}{PROCESSES}pc_scan {job.words()}"


def read_scan(answer: str) -> tuple[int | None, set[int], dict[int, Process]]:
    """Pid of `job.sh`, the processes marked as the job's, and every process of the host.

    Raises:
        Transient: the answer is not whole.
    """
    leader, marked, table = None, set(), {}
    lines = [line.split() for line in answer.splitlines()]
    if ["end"] not in lines:
        raise Transient("the list of processes is not whole")
    for words in lines:
        if len(words) < 2 or not words[1].isdecimal():
            continue
        pid = int(words[1])
        if words[0] == "leader":
            leader = pid
        elif words[0] == "marked":
            marked.add(pid)
        elif words[0] == "process" and len(words) == 6:
            with suppress(ValueError):
                table[pid] = Process(pid, int(words[2]), int(words[3]), words[4], int(words[5]))
    return leader, marked, table


def signal_script(name: str, doomed: Iterable[Process], waited: Iterable[Process], seconds: float) -> str:
    """Send a signal, then wait until processes are gone; the answer is ``left`` with the pids that are not.

    Args:
        name: of the signal, such as ``TERM``.
        doomed: who gets it.
        waited: who is waited for.
        seconds: for how long.
    """
    naps = max(1, round(seconds / 0.05))
    to, on = (quote(" ".join(f"{p.pid}@{p.start_ticks}" for p in some)) for some in (doomed, waited))
    return f"{LIBRARY}{SIGNAL}pc_signal {quote(name)} {to}\npc_wait {naps} {on}"


def set_aside_script(run_dirs: Sequence[str]) -> str:
    """Give damaged exit records the next free name ``status.json.damaged-<n>``."""
    return SET_ASIDE + "\n".join(f"pc_aside {quote(run_dir)}" for run_dir in run_dirs)


def read_words(answer: str, *, first: Sequence[str]) -> list[str]:
    """The words of the line that begins with one of these words.

    Raises:
        Transient: there is no such line.
    """
    for line in answer.splitlines():
        words = line.split()
        if words and words[0] in first:
            return words
    raise Transient(f"the answer has none of {', '.join(first)}: {answer.strip()[:200]!r}")


def unhex(word: str) -> str:
    """Text that came as hexadecimal digits; anything else as it is."""
    try:
        return _text(word)
    except ValueError:
        return word


def _quiet(words: Sequence[str]) -> float | None:
    """The seconds in ``quiet=<seconds>``; a file from the future was written just now."""
    for word in words:
        name, _, number = word.partition("=")
        if name == "quiet" and number.removeprefix("-").isdecimal():
            return max(0.0, float(number))
    return None


def _text(word: str) -> str:
    return bytes.fromhex(word).decode("utf-8", "surrogateescape")


def _pairs(answer: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (line.strip().partition(" ") for line in answer.splitlines())]
