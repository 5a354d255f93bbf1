"""Talking to one SSH host: scripts for its /bin/sh and rsync, over one connection that is kept open."""

import asyncio
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefect_campaign.launch.ssh import pipe as ssh_pipe
from prefect_campaign.launch.ssh.errors import SSH_FAILED, last_line, never_connected, remote_failure, ssh_failure
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.program import run_program
from prefect_campaign.model.errors import Refused, Transient, Unknown

CONNECT_SECONDS = 10
CALL_SECONDS = 60.0
RSYNC_SECONDS = 1800.0
RSYNC_QUIET_SECONDS = 60
"""An rsync through which nothing moves for so long has failed."""

_AT_ONCE = 4
"""Calls on one connection; an sshd allows ten sessions by default, and others may share it."""

_PARTIAL = (23, 24)
"""rsync: some files could not be copied, or vanished while it ran; all the others are there."""


class Connection:
    """Runs things on one host, with the system's own ssh and rsync."""

    def __init__(self, host: SshHost) -> None:
        self.host = host
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._first = asyncio.Lock()
        self._open = False

    async def read(self, script: str, *, seconds: float = CALL_SECONDS) -> str:
        """Run a script that changes nothing, or nothing that matters twice; what it prints.

        Raises:
            Transient: no whole answer; try again.
            Refused: the host is not to be reached with these settings, now or later.
        """
        try:
            return await self.act(script, seconds=seconds)
        except Unknown as error:
            raise Transient(str(error)) from error

    async def act(self, script: str, *, seconds: float = CALL_SECONDS) -> str:
        """Run a script that must not run twice; what it prints.

        The script goes to ``/bin/sh`` by stdin, whatever the log-in shell is, and only what is printed between two
        random marks is taken for its answer, whatever the log-in prints.

        Args:
            script: POSIX sh; it must not read stdin.
            seconds: until it is given up.

        Raises:
            Transient: it did not run.
            Refused: it did not run, and will not with these settings.
            Unknown: the connection died when it may have been running.
        """
        mark = secrets.token_hex(16)
        framed = f"printf '\\n%s\\n' {mark}-begin\n{{\n{script}\n}} </dev/null\nprintf '\\n%s\\n' {mark}-end\nexit 0\n"
        argv = [*self._ssh(), "/bin/sh -s"]
        try:
            if not self._open:
                async with self._first:  # else each of many first calls would open a connection of its own
                    done = await self._run(argv, framed.encode("utf-8", "surrogateescape"), seconds)
            else:
                async with self._turns:
                    done = await self._run(argv, framed.encode("utf-8", "surrogateescape"), seconds)
        except TimeoutError:
            await self._drop()
            raise Unknown(f"host {self.host.name}: no answer within {seconds:g} s") from None
        code, out, said = done
        begun, rest = _after(out, f"\n{mark}-begin\n")
        ended, answer = _before(rest, f"\n{mark}-end\n")
        if begun and ended:
            self._open = True
            return answer
        self._open = False
        error = ssh_failure(self.host, code, said)
        if begun or (isinstance(error, Transient) and not (code == SSH_FAILED and never_connected(said))):
            raise Unknown(f"{error} (in the middle of a command)" if begun else str(error))
        raise error

    async def rsync(
        self,
        options: Sequence[str],
        source: str,
        target: str,
        names: Sequence[bytes],
        *,
        seconds: float = RSYNC_SECONDS,
    ) -> str:
        """Copy files between here and there.

        Args:
            options: rsync's own, besides those that every copy has.
            source: folder; one on the host starts with ``h:``.
            target: folder; the same.
            names: what to copy, relative to `source`; folders with all that is in them.
            seconds: until it is given up.

        Returns:
            Empty, or a line on what could not be copied though the rest was.

        Raises:
            Transient: it failed, try again; what was copied stays.
            Refused: it cannot work with these settings.
        """
        mark = secrets.token_hex(16)
        shell = [sys.executable, "-I", "-S", ssh_pipe.__file__, mark, json.dumps(self._ssh())]
        argv = ["rsync", "-rlt", "--from0", "--files-from=-", "--no-implied-dirs", "--protect-args"]
        argv += [f"--timeout={RSYNC_QUIET_SECONDS}", "-e", " ".join(map(_for_rsync, shell))]
        try:
            async with self._turns:
                code, _, said = await self._run([*argv, *options, source, target], b"\0".join(names), seconds)
        except TimeoutError:
            raise Transient(f"host {self.host.name}: rsync did not end within {seconds:g} s") from None
        if code == 0:
            return ""
        reason = next((line for line in said.splitlines() if line.startswith("rsync: ")), last_line(said))
        if code in _PARTIAL:
            return "" if code == 24 else last_line(reason)
        if code == SSH_FAILED:
            raise ssh_failure(self.host, code, said)
        if code in (11, 22, 13):  # files, memory, diagnostics: a full disk says so
            raise remote_failure(self.host, "rsync", reason)
        raise Transient(f"host {self.host.name}: rsync failed ({code}): {last_line(reason)}")

    async def _run(self, argv: list[str], stdin: bytes, seconds: float) -> tuple[int, str, str]:
        code, out, said = await run_program(argv, stdin, seconds)
        return code, out.decode("utf-8", "surrogateescape"), said.decode("utf-8", "replace")

    async def _drop(self) -> None:
        """Let go of a connection on which nothing moves, so that the next call opens another one."""
        self._open = False
        argv = self._ssh()
        with suppress(TimeoutError, Transient, Refused):
            await self._run([*argv[:1], "-O", "exit", *argv[1:]], b"", 2)
        with suppress(OSError):
            self._folder().joinpath(self._socket()).unlink()

    def _ssh(self) -> list[str]:
        host, folder = self.host, self._folder()
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "RemoteCommand": "none",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": str(folder / self._socket()),
        }
        argv = ["ssh", "-T"]
        if host.config_file:
            argv += ["-F", str(self._file("config_file", host.config_file))]
        if host.known_hosts:
            options["UserKnownHostsFile"] = str(self._file("known_hosts", host.known_hosts))
            options["GlobalKnownHostsFile"] = "/dev/null"
        if host.key_file:
            options["IdentitiesOnly"] = "yes"
            argv += ["-i", str(self._file("key_file", host.key_file))]
        if host.port is not None:
            argv += ["-p", str(host.port)]
        if host.user:
            argv += ["-l", host.user]
        return [*argv, *(f"-o{name}={value}" for name, value in options.items()), host.target]

    def _file(self, what: str, name: str) -> Path:
        """The file under a short name without anything that ssh would read in it (blanks, ``%``, quotes)."""
        target = Path(name).expanduser().absolute()
        if not target.exists() or target.is_dir():  # /dev/null is a usual way to say "no configuration"
            raise Refused(f"host {self.host.name}: {what}: there is no file {target}; correct it in its block")
        link = self._folder() / f"f-{_short(str(target))}"
        if not link.is_symlink() or os.readlink(link) != str(target):
            new = link.with_name(f"{link.name}.{os.getpid()}.{secrets.token_hex(4)}")
            new.symlink_to(target)
            new.replace(link)
            for other in link.parent.glob("f-*"):
                if not other.exists():  # leads to a file that is gone
                    other.unlink(missing_ok=True)
        return link

    def _socket(self) -> str:
        host = self.host
        who = [host.target, host.user, host.port, host.key_file, host.known_hosts, host.config_file]
        return f"m-{_short(json.dumps(who))}"

    def _folder(self) -> Path:
        """A private folder with a short path (a socket's may have about 100 bytes), shared by all our processes."""
        base = os.environ.get("XDG_RUNTIME_DIR") or ""
        if not (0 < len(base) < 40 and base.isascii() and base.replace("/", "").isalnum() and os.path.isdir(base)):
            base = "/tmp"  # noqa: S108 - the folder below it is checked to be ours alone
        folder = Path(base) / f"campaign-ssh-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise Transient(f"{folder}: cannot be used for connections ({error.strerror})") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise Refused(f"{folder}: is not a folder for this user alone; remove it")
        return folder


def _after(text: str, mark: str) -> tuple[bool, str]:
    _, found, rest = text.partition(mark)
    return bool(found), rest


def _before(text: str, mark: str) -> tuple[bool, str]:
    answer, found, _ = text.rpartition(mark)
    return bool(found), answer


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _for_rsync(word: str) -> str:
    """Quoted as rsync reads its ``-e``: a single quote inside is doubled."""
    return "'" + word.replace("'", "''") + "'"
