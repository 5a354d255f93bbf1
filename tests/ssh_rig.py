"""Real sshd's on loopback: each with its own port, keys, home and programs; no file of the system is touched."""

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from programs import needed

from prefect_campaign.launch.ssh.host import SshHost


class Sshd:
    """One "host": an sshd whose sessions have their own HOME and PATH.

    Args:
        folder: where all its files are.
        name: of the host.
        banner: shown before the log-in.
        shell: a program that is run instead of the log-in shell, as that: with `-c` and the command.
    """

    def __init__(self, folder: Path, name: str = "h1", *, banner: str = "", shell: str = "") -> None:
        self.program = needed("sshd", "ssh", "ssh-keygen", "rsync")
        self.folder = folder
        self.name = name
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.environment: dict[str, str] = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin"}
        for path in (self.home, self.bin):
            path.mkdir(parents=True)
        folder.chmod(0o700)
        self.banner, self.shell = banner, shell
        self.port = free_port()
        self.host_key, self.user_key = folder / "host_key", folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        make_key(self.user_key)
        (folder / "authorized_keys").write_text(self.user_key.with_suffix(".pub").read_text())
        self.new_host_key(known=True)
        self._process: subprocess.Popen[bytes] | None = None

    def host(self, **changes) -> SshHost:
        """How to reach it."""
        made = SshHost(
            name=self.name,
            address="127.0.0.1",
            port=self.port,
            key_file=str(self.user_key),
            known_hosts=str(self.known_hosts),
            config_file=str(self._empty_config()),
        )
        return replace(made, **changes)

    def new_host_key(self, *, known: bool) -> None:
        """As after a new installation of the machine."""
        for path in (self.host_key, self.host_key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        make_key(self.host_key)
        if known:
            key = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
            self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}\n")

    def start(self) -> "Sshd":
        """Start it and wait until it listens."""
        self._write_config()
        log = self.folder / "sshd.log"
        argv = [self.program, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)]
        os.makedirs("/run/sshd", exist_ok=True)  # sshd of some distributions insists on it
        self._process = subprocess.Popen(argv, start_new_session=True, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it with all its connections, as if the network were gone; jobs in their own sessions live on."""
        if self._process is None:
            return
        own = [self._process.pid, *descendants(self._process.pid)]
        for pid in [pid for pid in own if is_sshd(pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def program_on_path(self, name: str, text: str) -> Path:
        """Put a program on the PATH of this host alone."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def _empty_config(self) -> Path:
        path = self.folder / "ssh_config"
        path.touch()
        return path

    def _write_config(self) -> None:
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'sshd.pid'}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "LogLevel VERBOSE",
            "SetEnv " + " ".join(f'{name}="{value}"' for name, value in self.environment.items()),
        ]
        if self.banner:
            (self.folder / "banner").write_text(self.banner)
            lines.append(f"Banner {self.folder / 'banner'}")
        if self.shell:
            lines.append(f"ForceCommand {self.shell}")
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")


@contextmanager
def running(sshd: Sshd) -> Iterator[Sshd]:
    """The host, up until the end of the block."""
    try:
        yield sshd.start()
    finally:
        sshd.kill()


def make_key(path: Path) -> None:
    """A key pair without a passphrase."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def is_sshd(pid: int) -> bool:
    """Whether a process is one of sshd's own, and not what somebody runs in a session."""
    with suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("sshd")
    return False
