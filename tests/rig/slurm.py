"""A Slurm cluster on one machine: munged, MariaDB, slurmdbd, slurmctld and two slurmd with four GPUs each."""

from pathlib import Path
from typing import ClassVar

from rig import cgroups
from rig.daemon import MARK, Daemon, ask, listening, must
from rig.home import caller
from rig.part import Part, sweep
from rig.slurm_accounts import ready_database, set_accounts, set_cluster
from rig.slurm_config import GPUS, NODES, accounting_config, cgroup_config, cluster_config, gres_config

NODE = "CAMPAIGN_RIG_NODE"


class Slurm(Part):
    """Gives SLURM_CONF."""

    name = "slurm"
    packages: ClassVar = {
        "munged": "munge",
        "mariadbd": "mariadb-server",
        "slurmdbd": "slurmdbd",
        "slurmctld": "slurmctld",
        "slurmd": "slurmd",
        "sbatch": "slurm-client",
    }

    def prepare(self) -> None:
        home = self.home
        home.folder("slurm/munge", "munge")
        key = home.path / "slurm" / "munge" / "key"
        if not key.exists():
            home.write("slurm/munge/key", home.secret("munge"), "munge", 0o400)
        for name in ("state", *NODES):
            home.folder(f"slurm/{name}")
        for gpu in (home.path / "slurm" / node / f"gpu{number}" for node in NODES for number in range(GPUS)):
            if not gpu.is_symlink():
                gpu.symlink_to("/dev/null")
        home.folder("slurm/mariadb", "mysql", 0o700)
        if not (home.path / "slurm" / "mariadb" / "mysql").exists():
            options = ("--no-defaults", f"--datadir={self._path('mariadb')}", "--skip-test-db", "--user=mysql")
            must("mariadb-install-db", *options, "--auth-root-authentication-method=socket", timeout=180)
        if memory := cgroups.memory_v1():
            (memory / self._cgroup).mkdir(exist_ok=True)
            home.folder("slurm/cgroup")
            link = home.path / "slurm" / "cgroup" / "memory"
            link.unlink(missing_ok=True)
            link.symlink_to(memory / self._cgroup)
        self.write_settings()

    def write_settings(self, **changes: object) -> None:
        """All configuration, with changes to what slurm.conf has by default; None leaves a setting out."""
        self.home.write("slurm/slurm.conf", cluster_config(self.home, changes))
        self.home.write("slurm/gres.conf", gres_config(self.home))
        self.home.write("slurm/cgroup.conf", cgroup_config(self.home))
        self.home.write("slurm/slurmdbd.conf", accounting_config(self.home), mode=0o600)

    def daemons(self) -> list[Daemon]:
        return [self._munged(), self._mariadb(), self._slurmdbd(), self._slurmctld(), *map(self._slurmd, NODES)]

    def addresses(self) -> dict[str, str]:
        return {"SLURM_CONF": self._path("slurm.conf")}

    def ask(self, *argv: str, timeout: float = 30):
        """A Slurm command against this cluster."""
        return ask(*argv, timeout=timeout, **self.addresses())

    def kill_node(self, node: str) -> None:
        """Its slurmd, and all jobs there."""
        daemon = self.daemon(node)
        daemon.kill()
        wanted = {f"{MARK}={daemon.mark}".encode(), f"{NODE}={node}".encode()}
        sweep(lambda variables: wanted <= set(variables))

    def quiet(self) -> None:
        jobs = self.ask("squeue", "--noheader", "--format=%A").stdout.split()
        if jobs:
            self.ask("scancel", "--signal=KILL", *sorted(set(jobs)))
            self.ask("scancel", *sorted(set(jobs)))

    def clear(self) -> None:
        # What a job has left running in a session of its own; a shell that only has SLURM_CONF is somebody's.
        mine = f"SLURM_CONF={self._path('slurm.conf')}".encode()
        sweep(lambda variables: mine in variables and any(item.startswith(b"SLURM_JOB_ID=") for item in variables))
        cgroups.remove(self._cgroup)
        self._stopped.write_text("the next start forgets all jobs\n")

    def _munged(self) -> Daemon:
        socket = self._path("munge/socket")
        options = {
            "socket": socket,
            "key-file": self._path("munge/key"),
            "pid-file": self._path("munge/pid"),
            "seed-file": self._path("munge/seed"),
            "origin": "127.0.0.1",
        }
        # By force: it warns about folders above that belong to others, where it would refuse.
        argv = ("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in options.items()))
        answers = lambda: ask("munge", "--no-input", f"--socket={socket}").returncode == 0  # noqa: E731
        return Daemon(self.home, self.name, "munged", argv, answers, socket, user="munge")

    def _mariadb(self) -> Daemon:
        socket, port = self._path("mariadb/socket"), self.home.port("mariadb")
        options = {
            "datadir": self._path("mariadb"),
            "socket": socket,
            "pid-file": self._path("mariadb/pid"),
            "port": port,
            "bind-address": "127.0.0.1",
            # What slurmdbd asks for, and little memory.
            "innodb-lock-wait-timeout": 900,
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "32M",
            "innodb-flush-log-at-trx-commit": 2,  # what is written survives the process, if not the machine
        }
        argv = ("mariadbd", "--no-defaults", *(f"--{name}={value}" for name, value in options.items()))
        return Daemon(
            self.home,
            self.name,
            "mariadb",
            argv,
            lambda: ask("mariadb-admin", f"--socket={socket}", "ping").returncode == 0,
            f"127.0.0.1:{port}",
            user="mysql",
            after=lambda: ready_database(self.home, socket),
        )

    def _slurmdbd(self) -> Daemon:
        return Daemon(
            self.home,
            self.name,
            "slurmdbd",
            ("slurmdbd", "-D"),
            lambda: self.ask("sacctmgr", "--noheader", "show", "cluster").returncode == 0,
            f"127.0.0.1:{self.home.port('slurmdbd')}",
            environment=self.addresses(),
            after=lambda: set_cluster(self.home, self.ask),
        )

    def _slurmctld(self) -> Daemon:
        return Daemon(
            self.home,
            self.name,
            "slurmctld",
            ("slurmctld", "-D", *(("-c",) if self._stopped.exists() else ())),
            lambda: "is UP" in self.ask("scontrol", "ping").stdout,
            f"127.0.0.1:{self.home.port('slurmctld')}",
            environment=self.addresses(),
            after=self._controller_is_up,
        )

    def _controller_is_up(self) -> None:
        set_accounts(self.home, self.ask, [caller(), "root", "nobody"])
        self._stopped.unlink(missing_ok=True)

    def _slurmd(self, node: str) -> Daemon:
        return Daemon(
            self.home,
            self.name,
            node,
            ("slurmd", "-D", "-N", node),
            lambda: self._usable(node),
            f"127.0.0.1:{self.home.port(node)}",
            environment={**self.addresses(), NODE: node},
        )

    def _usable(self, node: str) -> bool:
        if not listening(self.home.port(node)):
            return False
        states = self.ask("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T").stdout.split()
        if states and states[0].startswith(("down", "drain")):
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")
        return bool(states) and states[0] in ("idle", "mixed", "allocated", "completing")

    @property
    def _cgroup(self) -> str:
        return f"{self.home.short_name}-slurm"

    @property
    def _stopped(self) -> Path:
        return self.home.path / self.name / "stopped"

    def _path(self, name: str) -> str:
        return str(self.home.path / self.name / name)
