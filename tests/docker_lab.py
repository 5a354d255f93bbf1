"""What tests of the Docker launcher share: settings for an engine, and what they see of it from outside."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import DockerSettings

BUSYBOX = "campaign-test/busybox:latest"


class Lab:
    """One engine, and the launchers of one test.

    Args:
        url: of the engine.
        folder: the test's own; containers with mounts from it are the test's.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._made: list[DockerLauncher] = []

    def client(self, **more: Any) -> Any:
        return docker.DockerClient(base_url=self.url, version="auto", **{"timeout": 30, **more})

    def settings(self, **changes: Any) -> DockerSettings:
        given = {"image": BUSYBOX, "client": self.client, "address": self.url, "writable_code": True, **changes}
        return DockerSettings(**given)

    def launcher(self, *, poll_seconds: float = 30.0, gpus: Any = None, **changes: Any) -> DockerLauncher:
        self._made.append(DockerLauncher(self.settings(**changes), poll_seconds=poll_seconds, gpus=gpus))
        return self._made[-1]

    def inspect(self, name: str) -> dict[str, Any]:
        with self._api() as api:
            return api.inspect_container(name)

    def names(self) -> set[str]:
        """Names of the test's own containers."""
        with self._api() as api:
            return {one["Names"][0].removeprefix("/") for one in api.containers(all=True) if self._is_ours(one)}

    @contextmanager
    def open(self) -> Iterator["Lab"]:
        """Afterwards the launchers are closed, and the test's own containers removed."""
        try:
            yield self
        finally:
            for launcher in self._made:
                launcher.close()
            with suppress(DockerException), self._api() as api:
                for one in filter(self._is_ours, api.containers(all=True)):
                    with suppress(DockerException):
                        api.remove_container(one["Id"], force=True, v=True)

    @contextmanager
    def _api(self) -> Iterator[Any]:
        client = self.client()
        try:
            yield client.api
        finally:
            client.close()

    def _is_ours(self, one: dict[str, Any]) -> bool:
        sources = [mount.get("Source", "") for mount in one["Mounts"]]
        return any(f"{source}/".startswith(f"{self.folder}/") for source in sources)


def processes_inside(run_dir: str) -> list[int]:
    """Living processes of an attempt, whichever namespace they are in, by their numbers in it."""
    found = []
    mark = b"CAMPAIGN_RUN_DIR=" + os.fsencode(run_dir)
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                if status["State"].strip()[0] not in "ZX":
                    found.append(int(status["NSpid"].split()[-1]))
    return found
