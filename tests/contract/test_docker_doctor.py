"""What `campaign doctor` says of a Docker engine."""

from typing import Any

import pytest
from docker_lab import BUSYBOX
from driver import Driver, gpus
from fake_docker import FakeEngine

import prefect_campaign.blocks.docker  # noqa: F401 - its import is not what is timed
from prefect_campaign.cli import doctor_machines
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, limited


async def found(engine: FakeEngine, **changes: Any) -> list[Finding]:
    one = Block("docker/lab", {"image": BUSYBOX, "host": {"base_url": engine.url}, **changes})
    return await limited("x", one.launcher, doctor_machines.machine(one))


def texts(findings: list[Finding], level: str) -> str:
    return "\n".join(f"{one.what} -> {one.do}" for one in findings if one.level == level)


async def test_an_engine_that_is_well(fake_docker: FakeEngine) -> None:
    seen = await found(fake_docker)
    assert {one.level for one in seen} <= {GOOD, NOTE}, seen
    assert "Docker 28.0.0 at unix://" in texts(seen, GOOD)
    assert "8 processors" in texts(seen, GOOD)
    assert f"image {BUSYBOX} is there" in texts(seen, GOOD)
    assert not [asked for asked in fake_docker.asked if not asked.startswith("GET")]


async def test_no_engine_is_told_with_what_to_do(fake_docker: FakeEngine) -> None:
    fake_docker.stop()
    told = texts(await found(fake_docker), BAD)
    assert "no Docker engine answers" in told
    assert "systemctl start docker" in told


@pytest.mark.parametrize(
    ("changes", "level", "said", "do"),
    [
        ({"image": "none:1"}, NOTE, "image none:1 is not there", "docker pull none:1"),
        ({"image": "none:1", "pull": "never"}, BAD, "image none:1 is not there", "docker pull none:1"),
        ({"data": {"/no/where": ""}}, BAD, "data /no/where is not on this machine", "correct `data`"),
        ({"secrets": ["NO_SUCH_KEY"]}, WARN, "not set in this environment: NO_SUCH_KEY", "export it"),
        ({"disk_mb": 100}, WARN, "`disk_mb` has no effect", "pquota"),
        ({"shm_mb": 0}, BAD, "its block cannot be used: shm_mb", "save the block again"),
        ({"host": {"base_url": "tcp://10.0.0.1:1"}}, BAD, "not on this machine", "SSH machine"),
    ],
)
async def test_what_will_not_work_is_told_with_what_to_do(
    fake_docker: FakeEngine, changes: dict[str, Any], level: str, said: str, do: str
) -> None:
    told = texts(await found(fake_docker, **changes), level)
    assert said in told
    assert do in told


async def test_gpus_that_the_engine_may_not_give(fake_docker: FakeEngine, driver: Driver) -> None:
    driver.set(gpus(2))
    assert "names no NVIDIA runtime" in texts(await found(fake_docker), WARN)
    fake_docker.info["Runtimes"] = {"runc": {}, "nvidia": {}}
    assert "NVIDIA runtime" not in texts(await found(fake_docker), WARN)


async def test_an_engine_without_limits_says_so(fake_docker: FakeEngine) -> None:
    fake_docker.info["Warnings"] = ["WARNING: No memory limit support", "WARNING: IPv4 forwarding is disabled"]
    told = texts(await found(fake_docker), WARN)
    assert "No memory limit support" in told
    assert "IPv4" not in told
