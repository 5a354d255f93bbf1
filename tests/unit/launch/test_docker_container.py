"""The container of an attempt as the Engine API is asked for it, and what is read of an engine (pure)."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.launchers import make_spec
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.launch.docker.container import (
    container_config,
    container_names,
    digest_of,
    is_of,
    limit_refused,
    user_of,
    warnings_of,
)
from prefect_campaign.launch.docker.record import End, read_container, seconds_of
from prefect_campaign.launch.docker.settings import DockerSettings, Engine, Scope, engine_of
from prefect_campaign.model.records import AttemptSpec

ENGINE = Engine("id", "28", cpus=16, memory_mb=64_000, storage="overlay2", backing="extfs")
SPEC = make_spec(Path("/home/runs/e/a1"), "true", workdir="/code")
SETTINGS = DockerSettings("image", client=lambda: None, user="7:7")


def made(spec: AttemptSpec = SPEC, settings: DockerSettings = SETTINGS, engine: Engine = ENGINE, **more: Any) -> Any:
    return container_config(spec, settings, engine, **more)


def mounts(config: Any) -> dict[str, tuple[str, bool]]:
    """Target -> source, and whether it may be written."""
    return {m["Target"]: (m["Source"], not m["ReadOnly"]) for m in config["HostConfig"]["Mounts"]}


def test_the_defaults_are_those_that_were_promised() -> None:
    config = made()
    host = config["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 48_000 << 20
    assert host["NanoCpus"] == 14 * 10**9
    assert host["ShmSize"] == 8 << 30
    assert host["PidsLimit"] == 1000
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 65536, "Hard": 65536}]
    assert (host["Init"], host["NetworkMode"], host["RestartPolicy"]) == (True, "none", {"Name": "no"})
    assert (config["StopTimeout"], config["User"]) == (10, "7:7")
    assert (host["DeviceRequests"], host["StorageOpt"]) == ([], {})
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/sh"], ["/home/runs/e/a1/job.sh"])
    assert mounts(config) == {
        "/home/runs/e/a1": ("/home/runs/e/a1", True),
        "/home/runs/e/checkpoints": ("/home/runs/e/checkpoints", True),
        "/code": ("/code", False),
    }


def test_what_the_attempt_wants_comes_before_the_blocks_settings() -> None:
    settings = replace(SETTINGS, memory_mb=1000, cpus=2.5, shm_mb=100, disk_mb=10)
    host = made(settings=settings)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (1000 << 20, 25 * 10**8, 100 << 20)
    spec = replace(SPEC, memory_mb=2000, cpus=4, shm_mb=200, disk_mb=20)
    engine = replace(ENGINE, backing="xfs")
    host = made(spec, settings, engine)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (2000 << 20, 4 * 10**9, 200 << 20)
    assert host["StorageOpt"] == {"size": "20M"}


@pytest.mark.parametrize(("cpus", "given"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 62)])
def test_a_small_machine_gives_at_least_one_processor(cpus: int, given: int) -> None:
    assert made(engine=replace(ENGINE, cpus=cpus))["HostConfig"]["NanoCpus"] == given * 10**9


def test_no_more_processors_are_asked_for_than_there_are() -> None:
    assert made(replace(SPEC, cpus=1))["HostConfig"]["NanoCpus"] == 10**9
    assert made(replace(SPEC, cpus=1), replace(SETTINGS, cpus=8))["HostConfig"]["NanoCpus"] == 10**9
    # The engine would refuse it.
    assert made(replace(SPEC, cpus=64))["HostConfig"]["NanoCpus"] == 16 * 10**9
    assert made(settings=replace(SETTINGS, cpus=99))["HostConfig"]["NanoCpus"] == 16 * 10**9


def test_gpus_are_requested_by_uuid_and_without_any_none_is_seen() -> None:
    config = made(replace(SPEC, gpus=("GPU-a", "MIG-b")))
    assert config["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-a", "MIG-b"], "Capabilities": [["gpu"]]}]
    assert "NVIDIA_VISIBLE_DEVICES=void" not in config["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in made()["Env"]
    assert (
        "NVIDIA_VISIBLE_DEVICES=void" in made(settings=replace(SETTINGS, env={"NVIDIA_VISIBLE_DEVICES": "all"}))["Env"]
    )


def test_secrets_are_a_path_and_nothing_else() -> None:
    config = made(secrets="/dev/shm/private")
    assert mounts(config)["/run/prefect-campaign"] == ("/dev/shm/private", True)
    assert config["Entrypoint"][:2] == ["/bin/sh", "-c"]
    assert config["Cmd"] == ["/run/prefect-campaign/secrets.sh", "/home/runs/e/a1/job.sh"]
    assert not any("secret" in item.lower() for item in config["Env"])


def test_data_is_read_only_and_no_path_is_mounted_twice() -> None:
    settings = replace(SETTINGS, data={"/data": "", "/set": "/inside", "/x": "/code", "/home/runs/e/a1": ""})
    assert mounts(made(settings=settings)) == {
        **mounts(made()),
        "/data": ("/data", False),
        "/inside": ("/set", False),
    }
    assert mounts(made(replace(SPEC, workdir=SPEC.run_dir))).keys() == {SPEC.run_dir, SPEC.checkpoint_dir}
    assert mounts(made(settings=replace(SETTINGS, writable_code=True)))["/code"] == ("/code", True)
    assert "/code" not in mounts(made(here=False))


def test_whose_container_it_is_is_on_its_labels() -> None:
    labels = made(scope=Scope("tta", "ledger"), image_digest="image@sha256:0")["Labels"]
    assert labels["prefect-campaign.token"] == SPEC.token
    assert labels["prefect-campaign.run-dir"] == SPEC.run_dir
    assert (labels["prefect-campaign.campaign"], labels["prefect-campaign.ledger"]) == ("tta", "ledger")
    assert labels["prefect-campaign.digest"] == "image@sha256:0"
    assert is_of(labels, SPEC)
    assert not is_of(labels, replace(SPEC, run_dir="/elsewhere/e/a1"))
    assert not is_of(labels, replace(SPEC, token="other"))
    assert not is_of(None, SPEC)
    assert "prefect-campaign.campaign" not in made()["Labels"]


def test_users_inside() -> None:
    mine = f"{os.getuid()}:{os.getgid()}"
    nobody = replace(SETTINGS, user="")
    assert user_of(nobody, ENGINE) == mine
    assert user_of(nobody, replace(ENGINE, rootless=True)) == "0:0"  # who is the caller, outside
    assert user_of(SETTINGS, replace(ENGINE, rootless=True)) == "7:7"
    assert "HOME=/tmp" in made()["Env"]
    assert not any(item.startswith("HOME=") for item in made(settings=replace(SETTINGS, user="0:0"))["Env"])
    assert "HOME=/h" in made(settings=replace(SETTINGS, env={"HOME": "/h"}))["Env"]


@given(st.text(min_size=1, max_size=80))
def test_any_token_gives_names_that_the_engine_takes(token: str) -> None:
    spec = replace(SPEC, token=token)
    for name in container_names(spec):
        assert 1 < len(name) < 120
        assert name[0].isalnum()
        assert all(letter.isalnum() or letter in "_.-" for letter in name)
        assert name.isascii()
    assert container_names(spec) == container_names(spec)


def test_a_plain_token_is_the_name() -> None:
    assert container_names(SPEC)[0] == SPEC.token
    assert container_names(replace(SPEC, token="pc-a+b"))[0] != container_names(replace(SPEC, token="pc-a-b"))[0]


@pytest.mark.parametrize(
    ("info", "limits"),
    [
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, False),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, True),
        ({"Driver": "zfs", "DriverStatus": None}, True),
        ({"Driver": "vfs"}, False),
        ({}, False),
    ],
)
def test_which_storage_can_limit_the_disk(info: dict[str, Any], limits: bool) -> None:
    engine = engine_of(info)
    assert engine.limits_disk is limits
    assert bool(warnings_of(replace(SPEC, disk_mb=5), SETTINGS, engine)) is not limits
    assert warnings_of(SPEC, SETTINGS, engine) == []


def test_an_engine_is_read_as_it_tells() -> None:
    engine = engine_of(
        {
            "ID": "x",
            "ServerVersion": "28.2.2",
            "NCPU": 4,
            "MemTotal": 8 << 30,
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
            "Runtimes": {"runc": {}, "nvidia": {}},
            "Warnings": ["WARNING: No swap limit support"],
        }
    )
    assert (engine.id, engine.version, engine.cpus, engine.memory_mb) == ("x", "28.2.2", 4, 8192)
    assert engine.rootless
    assert engine.nvidia
    assert engine.warnings == ("WARNING: No swap limit support",)
    assert engine_of({}) == Engine("", "?", 1, 0, "?")


@pytest.mark.parametrize(
    ("named", "digests", "found"),
    [
        ("lab/train:2", ["other/name@sha256:0", "lab/train@sha256:1"], "lab/train@sha256:1"),
        ("lab/train", ["lab/train@sha256:1"], "lab/train@sha256:1"),
        ("host:5000/train", ["host:5000/train@sha256:1"], "host:5000/train@sha256:1"),
        ("host:5000/train:3", ["host:5000/train@sha256:1"], "host:5000/train@sha256:1"),
        ("lab/train@sha256:1", ["lab/train@sha256:1"], "lab/train@sha256:1"),
        ("retagged", ["lab/train@sha256:1"], "lab/train@sha256:1"),
        ("imported", [], ""),
        ("imported", None, ""),
    ],
)
def test_the_digest_is_that_of_the_image_as_it_is_named(named: str, digests: Any, found: str) -> None:
    assert digest_of({"RepoDigests": digests}, named) == found


def test_a_limit_that_an_engine_has_not_is_named() -> None:
    config = made(replace(SPEC, disk_mb=5), engine=replace(ENGINE, backing="xfs"))
    assert limit_refused(config, "error setting rlimits for ready process") == "Ulimits"
    assert limit_refused(config, "--storage-opt is supported only for overlay over xfs") == "StorageOpt"
    assert limit_refused(config, "no space left on device") == ""
    assert limit_refused(made(), "--storage-opt is supported only") == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456),
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T05:04:05.5+02:00", 1767323045.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times_of_the_engine(text: Any, seconds: float | None) -> None:
    assert seconds_of(text) == (pytest.approx(seconds) if seconds else None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"handle": 1, "end": []}',
        b'{"handle": {"launcher": "docker"}}',
        b'{"end": {"x": 1}}',
        b"[" * 99,
    ],
)
def test_a_damaged_note_of_the_container_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "container.json").write_bytes(content)
    found = read_container(tmp_path)
    assert (found.handle, found.end) == (None, None)


def test_an_end_in_words() -> None:
    assert End("exited", 137, oom_killed=True).state == "exited 137, OOMKilled"
    assert End("dead", 1, oom_killed=False).state == "dead 1"
