"""The code of a campaign on a host: one folder for each state of it, named by what is in it.

A changed working folder goes to another folder, so that running jobs keep the code they were started with. Nothing is
ever deleted on the host.
"""

import asyncio
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.errors import remote_failure
from prefect_campaign.launch.ssh.remote import read_words, unhex
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused, Transient

MOST_FILES = 50_000
MOST_BYTES = 2 << 30
"""More is no code: data belongs elsewhere, and is named by its path on the host."""

_GIT_SECONDS = 60
_TRIES = 3
_SKIPPED = frozenset({".git", "__pycache__", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules"})
"""Folders that are left out where git does not say what belongs to the code."""

Stamp = tuple[int, int, int, int]

_PREPARE = """\
pc_prepare() {
    [ -d "$1/$2" ] && { echo there; return; }
    pc_said=$(LC_ALL=C mkdir -p "$1/.new-$2" 2>&1) || { printf 'failed '; printf %s "$pc_said" | od -An -v -tx1 |
        tr -d ' \\n'; echo; return; }
    pc_like=$(ls -t "$1" 2>/dev/null | head -n 1)
    echo "missing $pc_like"
}
pc_take() {
    [ -d "$1/$2" ] || mv "$1/.new-$2" "$1/$2" 2>/dev/null
    if [ -d "$1/$2" ]; then echo there; else echo missing; fi
}
"""


@dataclass(frozen=True)
class CodeState:
    """The files of a working folder at one moment."""

    digest: str
    names: tuple[bytes, ...]
    """Relative to the folder, sorted."""


class CodeSync:
    """Brings working folders to one host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._hashes: dict[Path, tuple[Stamp, str]] = {}
        self._there: set[tuple[str, str]] = set()
        self._turn = asyncio.Lock()

    async def bring(self, workdir: str, run_dir: str, code: str) -> str:
        """Have the present state of a working folder on the host.

        Args:
            workdir: local folder.
            run_dir: local run dir of an attempt: run dirs are no code, wherever they are.
            code: the host's folder for code.

        Returns:
            The folder on the host.

        Raises:
            Refused: the folder is too large, or cannot be read.
            Transient: it could not be copied now.
        """
        async with self._turn:
            for _ in range(_TRIES):
                state = await asyncio.to_thread(code_state, Path(workdir), Path(run_dir), self._hashes)
                if (code, state.digest) in self._there:
                    return f"{code}/{state.digest}"
                if await self._sent(workdir, run_dir, code, state):
                    self._there.add((code, state.digest))
                    return f"{code}/{state.digest}"
        raise Transient(f"{workdir}: changes while it is copied to host {self._connection.host.name}; try again")

    def forget(self) -> None:
        """The host may have lost what it had."""
        self._there.clear()

    async def _sent(self, workdir: str, run_dir: str, code: str, state: CodeState) -> bool:
        """Whether this state is on the host now; not if the folder changed meanwhile."""
        host = self._connection.host
        words = f"{quote(code)} {quote(state.digest)}"
        said = read_words(
            await self._connection.act(f"{_PREPARE}pc_prepare {words}"), first=("there", "missing", "failed")
        )
        if said[0] == "failed":
            raise remote_failure(host, f"folder {code}", unhex(said[1] if len(said) > 1 else ""))
        if said[0] == "there":
            return True
        # By content: two states of a file may have one size and one second of change.
        options = ["-p", "--checksum", *(f"--copy-dest=../{name}" for name in said[1:2])]
        left = await self._connection.rsync(options, f"{workdir}/", f"h:{code}/.new-{state.digest}/", state.names)
        crash_point("code_copied")
        after = await asyncio.to_thread(code_state, Path(workdir), Path(run_dir), self._hashes)
        if after != state:
            return False
        if left:
            raise remote_failure(host, f"code of {workdir}", left)
        taken = read_words(await self._connection.act(f"{_PREPARE}pc_take {words}"), first=("there", "missing"))
        if taken[0] != "there":
            raise Transient(f"host {host.name}: {code}/{state.digest} could not be put in place; try again")
        crash_point("code_placed")
        return True


def code_state(workdir: Path, run_dir: Path, known: dict[Path, tuple[Stamp, str]]) -> CodeState:
    """The files that belong to the code: in a git work tree tracked and new ones, not the ignored; else all.

    Args:
        workdir: the folder.
        run_dir: a run dir; if it is inside the folder, all that belongs to campaigns there is left out.
        known: hashes of files that have not changed; it is brought up to date.

    Raises:
        Refused: it cannot be read, or is too large to be code.
    """
    outside = _not_code(workdir, run_dir)
    names, total, digest = [], 0, hashlib.sha256()
    try:
        for name in sorted(set(_names(workdir))):
            path = workdir / os.fsdecode(name)
            if outside is not None and path.is_relative_to(outside):
                continue
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue  # tracked, but deleted
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                continue
            names.append(name)
            total += found.st_size
            if len(names) > MOST_FILES or total > MOST_BYTES:
                raise Refused(
                    f"workdir {workdir}: has more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB to copy to other "
                    "hosts; leave data out of it by .gitignore, or share the folder with the hosts (`shared`)"
                )
            executable = "x" if found.st_mode & 0o111 else "-"
            for part in (name, executable.encode(), _content(path, found, known).encode()):
                digest.update(part + b"\0")
    except OSError as error:
        raise Refused(f"workdir {workdir}: cannot be copied to other hosts: {error}") from error
    return CodeState(digest.hexdigest()[:20], tuple(names))


def _names(workdir: Path) -> Iterator[bytes]:
    """Relative paths of the files; those of nested work trees as git sees each of them."""
    listed = _git_names(workdir)
    if not listed:
        yield from _walked(workdir)
        return
    for name in listed:
        path = workdir / os.fsdecode(name)
        if path.is_dir() and not path.is_symlink():
            yield from (os.path.join(name, inner) for inner in _names(path))
        else:
            yield name


def _git_names(folder: Path) -> list[bytes]:
    argv = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [name for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else []


def _walked(folder: Path) -> Iterator[bytes]:
    count = 0

    def fail(error: OSError) -> None:
        raise error

    for base, folders, files in os.walk(folder, onerror=fail):
        inner = set(folders)
        folders[:] = [name for name in folders if name not in _SKIPPED]
        links = [name for name in inner & set(folders) if os.path.islink(os.path.join(base, name))]
        for name in (*files, *links):
            count += 1
            if count > 4 * MOST_FILES:
                raise OSError(f"more than {4 * MOST_FILES} files")
            yield os.fsencode(os.path.relpath(os.path.join(base, name), folder))


def _content(path: Path, found: os.stat_result, known: dict[Path, tuple[Stamp, str]]) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "->" + hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
    stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if path not in known or known[path][0] != stamp:
        with path.open("rb") as file:
            known[path] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
    return known[path][1]


def _not_code(workdir: Path, run_dir: Path) -> Path | None:
    """The largest folder around the run dir that is inside the working folder and belongs to campaigns alone."""
    up = run_dir.parents
    candidates = [up[0], run_dir]
    if len(up) > 1:
        candidates.insert(0, up[1])
    if len(up) > 4 and up[1].name == "runs" and up[3].name == "campaigns":
        candidates = [up[4], up[3], *candidates]
    return next((folder for folder in candidates if workdir in folder.parents), None)
