"""PostgreSQL: one cluster on loopback, with a password."""

import signal
from pathlib import Path
from typing import ClassVar

from rig.daemon import Daemon, ask, must
from rig.home import CannotError
from rig.part import Part

USER = "campaign"


class Postgres(Part):
    """Gives CAMPAIGN_TEST_POSTGRES_URL, of a database that tests make their own ones beside."""

    name = "postgres"
    packages: ClassVar = {"psql": "postgresql"}
    needs_root = False

    def missing(self) -> set[str]:
        return set() if self._programs() else {"postgresql"}

    def prepare(self) -> None:
        folder = self.home.folder(self.name, "postgres", 0o700)
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            password = self.home.write("postgres/password", self.home.secret("postgres"), "postgres", 0o600)
            how = ("--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
            must(self._program("initdb"), f"--pgdata={data}", f"--username={USER}", *how, user="postgres", timeout=120)
        version = (data / "PG_VERSION").read_text().strip()
        if Path(self._program("postgres")).parts[-3] != version:
            raise CannotError(f"{data} was made by version {version}, which is not installed: move it away")

    def daemons(self) -> list[Daemon]:
        folder, port = self.home.path / self.name, self.home.port("postgres")
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # it may lose what it holds when the machine does, and saves the disk all the waiting
            "max_connections": 200,
        }
        options = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        return [
            Daemon(
                self.home,
                self.name,
                "postgres",
                (self._program("postgres"), "-D", str(folder / "data"), *options),
                self._answers,
                f"127.0.0.1:{port}",
                user="postgres",
                stop_signal=signal.SIGINT,  # does not wait for clients to leave
            )
        ]

    def addresses(self) -> dict[str, str]:
        password, port = self.home.secret("postgres"), self.home.port("postgres")
        return {"CAMPAIGN_TEST_POSTGRES_URL": f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"}

    def _answers(self) -> bool:
        url = self.addresses()["CAMPAIGN_TEST_POSTGRES_URL"]
        return ask(self._program("psql"), url, "-Atc", "select 1", PGCONNECT_TIMEOUT="5").stdout.strip() == "1"

    def _program(self, name: str) -> str:
        return str(self._programs()[-1] / name)

    def _programs(self) -> list[Path]:
        # Debian keeps the programs of each version apart, out of PATH.
        found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        return sorted((path.parent for path in found), key=lambda path: int(path.parent.name))
