"""Who a process on a GPU belongs to, as far as /proc tells."""

import os
import pwd
import re
from contextlib import suppress
from pathlib import PurePath

from prefect_campaign.launch.process import command_line, environment
from prefect_campaign.model.devices import GpuProcess

_LONGEST_NAME = 60
_INTERPRETER = re.compile(r"(python|pypy|perl|ruby|node|julia|bash|dash|sh|Rscript)[\d.]*(-bin)?")
_MARK = b"CAMPAIGN_RUN_DIR="


def gpu_process(pid: int, used_mb: int | None, *, graphics: bool) -> GpuProcess:
    """A process by its pid, with its owner, its command and the run dir it works for.

    What cannot be read stays unknown: a process of another user has no readable environment, and one outside this
    container may have no pid here at all.
    """
    return GpuProcess(
        pid,
        used_mb,
        user=_owner(pid),
        command=_command(pid),
        graphics=graphics,
        run_dir=_run_dir(pid),
    )


def _owner(pid: int) -> str:
    # Not the owner of /proc/<pid>: that is root for a process that may not be dumped.
    status = _first_bytes(f"/proc/{pid}/status").decode("ascii", "replace")
    found = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    if found is None:
        return "?"
    try:
        return pwd.getpwuid(int(found[1])).pw_name
    except KeyError:
        return found[1]


def _command(pid: int) -> str:
    """The program, and for an interpreter what it runs; other arguments may hold secrets and are left out."""
    words = [os.fsdecode(word) for word in command_line(pid)]
    if not words or not words[0].strip():
        words = [os.fsdecode(_first_bytes(f"/proc/{pid}/comm"))]
    program = PurePath(words[0]).name or words[0]
    if _INTERPRETER.fullmatch(program):
        program = " ".join((program, *_script(words[1:])))
    return _printable(program) or "?"


def _script(words: list[str]) -> list[str]:
    for at, word in enumerate(words):
        if word == "-m" and at + 1 < len(words):
            return ["-m", words[at + 1]]
        if word == "-c":
            return ["-c"]
        if not word.startswith("-"):
            return [PurePath(word).name]
    return []


def _run_dir(pid: int) -> str | None:
    for item in environment(pid):
        if item.startswith(_MARK):
            return os.fsdecode(item.removeprefix(_MARK)) or None
    return None


def _printable(text: str) -> str:
    """A process may call itself anything; what reaches a terminal has no control characters."""
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST_NAME].strip()


def _first_bytes(path: str) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(4096)
    return b""
