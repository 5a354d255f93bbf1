"""Redis: one server with a password, nothing kept on disk."""

from typing import ClassVar

from rig.daemon import Daemon, ask
from rig.part import Part


class Redis(Part):
    """Gives CAMPAIGN_TEST_REDIS_URL."""

    name = "redis"
    packages: ClassVar = {"redis-server": "redis-server", "redis-cli": "redis-tools"}
    needs_root = False

    def prepare(self) -> None:
        self.home.folder(self.name, "redis", 0o700)
        settings = {
            "bind": "127.0.0.1",
            "port": self.home.port("redis"),
            "requirepass": self.home.secret("redis"),
            "save": '""',
            "daemonize": "no",
            "dir": self.home.path / self.name,
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        self.home.write("redis/redis.conf", text, "redis", 0o600)

    def daemons(self) -> list[Daemon]:
        port = self.home.port("redis")
        argv = ("redis-server", str(self.home.path / self.name / "redis.conf"))
        return [Daemon(self.home, self.name, "redis", argv, self._answers, f"127.0.0.1:{port}", user="redis")]

    def addresses(self) -> dict[str, str]:
        password, port = self.home.secret("redis"), self.home.port("redis")
        return {"CAMPAIGN_TEST_REDIS_URL": f"redis://default:{password}@127.0.0.1:{port}/0"}

    def _answers(self) -> bool:
        password, port = self.home.secret("redis"), self.home.port("redis")
        return ask("redis-cli", "-p", str(port), "ping", REDISCLI_AUTH=password).stdout.strip() == "PONG"
