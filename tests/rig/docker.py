"""A Docker engine of our own: its own containerd, socket, data root and bridge; the firewall is left alone."""

import json
from pathlib import Path
from typing import ClassVar

from rig import cgroups
from rig.daemon import Daemon, ask, must
from rig.home import CannotError, caller, give
from rig.images import make_images
from rig.part import Part

SOCKET_LIMIT = 107  # bytes in the address of a Unix socket


class Docker(Part):
    """Gives DOCKER_HOST."""

    name = "docker"
    packages: ClassVar = {
        "dockerd": "docker.io",
        "docker": "docker.io",
        "containerd": "containerd",
        "ip": "iproute2",
        "busybox": "busybox",
    }

    def prepare(self) -> None:
        if len(str(self._path("docker.sock"))) > SOCKET_LIMIT - len("containerd."):
            raise CannotError(f"{self._path('docker.sock')} is too long for a socket: set RIG_HOME to a shorter path")
        if not cgroups.controllers_mounted():
            raise CannotError("no cgroup controllers are mounted in /sys/fs/cgroup")
        self.write_settings()
        lines = [
            "version = 2",
            f'root = "{self._path("containerd")}"',
            f'state = "{self._path("containerd-state")}"',
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
            f'[grpc]\naddress = "{self._path("containerd.sock")}"',
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self._path("containerd-opt")}"',
        ]
        self.home.write("docker/containerd.toml", "\n".join(lines) + "\n")

    def write_settings(self, **changes: object) -> None:
        """daemon.json, with changes to what the rig has by default."""
        settings = {
            "hosts": [f"unix://{self._path('docker.sock')}"],
            "containerd": str(self._path("containerd.sock")),
            "data-root": str(self._path("data")),
            "exec-root": str(self._path("exec")),
            "pidfile": str(self._path("dockerd.pid")),
            "bridge": self.home.short_name,
            "cgroup-parent": f"/{self._cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],  # whether or not there is a systemd
            # These belong to the machine and to its own engine, if it has one.
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "shutdown-timeout": 3,
            "log-level": "warn",
            **changes,
        }
        self.home.write("docker/daemon.json", json.dumps(settings, indent=1) + "\n")

    def daemons(self) -> list[Daemon]:
        containerd, docker = self._path("containerd.sock"), self._path("docker.sock")
        ctr = ("ctr", "--address", str(containerd), "version")
        return [
            Daemon(
                self.home,
                self.name,
                "containerd",
                ("containerd", "--config", str(self._path("containerd.toml"))),
                lambda: ask(*ctr).returncode == 0,
                f"unix://{containerd}",
            ),
            Daemon(
                self.home,
                self.name,
                "dockerd",
                ("dockerd", "--config-file", str(self._path("daemon.json"))),
                lambda: self.ask("version").returncode == 0,
                f"unix://{docker}",
                before=self._before,
                after=lambda: give(docker, caller()),
            ),
        ]

    def addresses(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self._path('docker.sock')}"}

    def finish(self) -> None:
        make_images(self)

    def clear(self) -> None:
        for mount in _mounts_below(self._path("")):
            must("umount", "--lazy", mount)
        if Path(f"/sys/class/net/{self.home.short_name}").exists():
            must("ip", "link", "delete", self.home.short_name)
        cgroups.remove(self._cgroup)

    def ask(self, *words: str, timeout: float = 60):
        """The docker command against this engine."""
        return ask("docker", *words, timeout=timeout, **self.addresses(), HOME=str(self._path("")))

    def _before(self) -> None:
        self._path("dockerd.pid").unlink(missing_ok=True)  # after a boot its number may be another process
        bridge = self.home.short_name
        if not Path(f"/sys/class/net/{bridge}").exists():
            number = int(bridge[-8:], 16)
            must("ip", "link", "add", bridge, "type", "bridge")
            must("ip", "address", "add", f"10.{200 + number % 50}.{number // 50 % 256}.1/24", "dev", bridge)
            must("ip", "link", "set", bridge, "up")

    @property
    def _cgroup(self) -> str:
        return f"{self.home.short_name}-docker"

    def _path(self, name: str) -> Path:
        return self.home.path / self.name / name


def _mounts_below(folder: Path) -> list[str]:
    # The mount point is the fifth field; the deepest first (man 5 proc).
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if Path(point).is_relative_to(folder)), key=len, reverse=True)
