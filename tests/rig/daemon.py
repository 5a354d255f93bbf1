"""One daemon: started in its own session, known by pid and start time, stopped as that and never by name."""

import json
import os
import pwd
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefect_campaign.launch.identity import boot_id, read_process
from rig.home import CannotError, Home

# Not the caller's PATH: Debian's programs, and not those of a virtual environment or a newer docker in /usr/local.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
MARK = "CAMPAIGN_RIG"
POLL = 0.05


@dataclass(frozen=True)
class Daemon:
    """How to start a program that stays in the foreground, and how to see that it answers."""

    home: Home
    part: str
    name: str
    argv: tuple[str, ...]
    answers: Callable[[], bool]
    address: str = ""
    user: str = ""
    """Whom it runs as; empty: as ourselves."""
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    """Made right before each start."""
    after: Callable[[], None] = lambda: None
    """Made once it answers; also when it was up already."""
    stop_signal: signal.Signals = signal.SIGTERM
    patience: float = 60
    """Seconds that it may take to answer, or to stop."""

    @property
    def log(self) -> Path:
        """What it says."""
        return self.home.path / self.part / f"{self.name}.log"

    def pid(self) -> int | None:
        """The process, if the very one that was started here is still alive."""
        try:
            known = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return None
        process = read_process(known["pid"])
        same = process is not None and [process.start_ticks, boot_id()] == [known["start_ticks"], known["boot"]]
        return known["pid"] if same and process is not None and process.alive else None

    def up(self) -> bool:
        """Start it unless it runs, and wait until it answers.

        Returns:
            Whether it had to be started.

        Raises:
            CannotError: it ended, or does not answer.
        """
        started = self.pid() is None
        if started:
            self.start()
        deadline = time.monotonic() + self.patience
        while not self.answers():
            if self.pid() is None:
                raise CannotError(f"{self.name} ended: {self._last_words()} ({self.log})")
            if time.monotonic() > deadline:
                raise CannotError(f"{self.name} does not answer: {self._last_words()} ({self.log})")
            time.sleep(POLL)
        self.after()
        return started

    def start(self) -> None:
        """Start it, without waiting."""
        self.before()
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(self.home.path)}
        # The mark comes last: slurmstepd writes its title over all variables before SLURM_CONF.
        environment |= {**self.environment, MARK: self.mark}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.argv,
                env=environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **as_user(self.user),
            )
        seen = read_process(process.pid)
        assert seen is not None  # ours, and not waited for: at least a zombie
        process.returncode = 0  # it is meant to outlive us
        known = {"pid": process.pid, "start_ticks": seen.start_ticks, "boot": boot_id(), "argv": self.argv}
        self.home.folder("pids")
        self.home.write(f"pids/{self.name}.json", json.dumps(known))

    def stop(self) -> bool:
        """Stop it, by force if it does not follow in time.

        Returns:
            Whether it ran.
        """
        ran = self._signal(self.stop_signal, self.patience) or self.kill()
        self._record.unlink(missing_ok=True)
        return ran

    def kill(self) -> bool:
        """SIGKILL; returns whether it ran."""
        return self._signal(signal.SIGKILL, self.patience)

    @property
    def mark(self) -> str:
        """In its environment and in that of whatever it starts."""
        return f"{self.home.path}:{self.part}"

    @property
    def _record(self) -> Path:
        return self.home.path / "pids" / f"{self.name}.json"

    def _signal(self, number: signal.Signals, wait: float) -> bool:
        # The descriptor is opened first and the identity read second, so the signal cannot reach a later process.
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = json.loads(self._record.read_text())["pid"]
            descriptor = os.pidfd_open(pid)
            try:
                if self.pid() != pid:
                    return False
                signal.pidfd_send_signal(descriptor, number)
                ended = bool(select.select([descriptor], [], [], wait)[0])
            finally:
                os.close(descriptor)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            return ended
        return False

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            telling = [line for line in lines[-20:] if any(word in line.lower() for word in ("error", "fatal", "fail"))]
            return (telling or lines or ["it said nothing"])[-1][-200:]
        return "it said nothing"


def as_user(user: str) -> dict[str, object]:
    """Arguments of `subprocess` for a run as `user`, if we are root."""
    if not user or os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def listening(port: int) -> bool:
    """Whether somebody accepts connections on this port of loopback."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def ask(*argv: str, timeout: float = 20, user: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; one that is too slow or not there has failed."""
    try:
        return subprocess.run(
            argv,
            env={"PATH": PATH, "LANG": "C.UTF-8", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            cwd="/",
            **as_user(user),
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return subprocess.CompletedProcess(argv, 255, "", str(problem))


def must(*argv: str, timeout: float = 60, user: str = "", **environment: str) -> str:
    """The same, when it has to work.

    Raises:
        CannotError: it failed.
    """
    done = ask(*argv, timeout=timeout, user=user, **environment)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise CannotError(f"{argv[0]} failed ({done.returncode}): {said[:200]}")
    return done.stdout
