"""`campaign doctor` on machines by SSH: real sshd's on loopback."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ssh_rig import Sshd, running
from unit.cli.doctor_lab import seen, texts

from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("host"), "gpu1")) as up:
        yield up


def block(sshd: Sshd, **changes: Any) -> Block:
    host = sshd.host()
    fields = ("name", "address", "port", "key_file", "known_hosts", "config_file")
    return Block(f"ssh/{host.name}", {**{name: getattr(host, name) for name in fields}, **changes})


async def test_a_machine_that_is_well(sshd: Sshd) -> None:
    before = sorted(sshd.home.rglob("*"))
    found = await seen(block(sshd, slots=3))
    assert {one.level for one in found} <= {GOOD, NOTE}, found
    assert "gpu1 (127.0.0.1) can be reached, 3 slots" in texts(found, GOOD)
    assert f"work folder {sshd.home}/.campaign: can be made, " in texts(found, GOOD)
    assert sorted(sshd.home.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "said", "do"),
    [
        ({"root": "file/below"}, "cannot be written", "set `root` of the block"),
        ({"key_file": "/nowhere/key"}, "there is no file /nowhere/key", "correct it in its block"),
        ({"port": 1}, "cannot be reached", "works from here"),
        ({"user": "nobody-of-that-name"}, "is not let in", "authorized_keys"),
        ({"slots": 0}, "its block cannot be used: slots", "save the block again"),
        ({"factor": "fast"}, "its block cannot be used: factor", "save the block again"),
        ({"root": "."}, "is not a folder of its own", ""),
    ],
)
async def test_what_is_wrong_with_a_machine_is_told_with_what_to_do(
    sshd: Sshd, changes: dict[str, Any], said: str, do: str
) -> None:
    (sshd.home / "file").write_text("")
    told = texts(await seen(block(sshd, **changes)), BAD)
    assert said in told
    assert do in told


async def test_no_ssh_configuration_at_all_is_one(sshd: Sshd) -> None:
    assert not texts(await seen(block(sshd, config_file="/dev/null")), BAD)


async def test_a_changed_host_key_is_told(sshd: Sshd) -> None:
    sshd.kill()
    sshd.new_host_key(known=False)
    with running(sshd):
        told = texts(await seen(block(sshd)), BAD)
    assert "its key is not the one in" in told
    assert "ssh-keygen -f" in told


async def test_programs_and_drivers_that_are_missing_there(tmp_path: Path) -> None:
    host = Sshd(tmp_path / "bare", "bare")
    for name in ("sh", "cat", "tr", "od", "head", "awk", "wc", "grep", "df", "date", "nproc", "sed", "sort", "id"):
        (host.bin / name).symlink_to(f"/usr/bin/{name}" if os.path.exists(f"/usr/bin/{name}") else f"/bin/{name}")
    host.environment["PATH"] = str(host.bin)
    host.program_on_path("nvidia-smi", "#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    with running(host):
        told = texts(await seen(block(host, tmux=True)), BAD)
    assert "install rsync there" in told
    assert "install tmux there, or take `tmux` off the block" in told
    assert "version mismatch" in told


async def test_a_clock_that_is_off(sshd: Sshd) -> None:
    sshd.program_on_path("date", "#!/bin/sh\necho $(($(/bin/date +%s) - OFF))\n".replace("OFF", "60"))
    assert "behind" in texts(await seen(block(sshd)), WARN)
    sshd.program_on_path("date", "#!/bin/sh\necho $(($(/bin/date +%s) + 7000))\n")
    assert "ahead" in texts(await seen(block(sshd)), BAD)


async def test_a_machine_that_never_answers_hides_nothing(sshd: Sshd, tmp_path: Path) -> None:
    hung = Sshd(tmp_path / "hung", "hung", shell="/bin/sleep 60 #")
    with running(hung):
        both = await asyncio.gather(seen(block(hung), 3.0), seen(block(sshd)))
    assert "slow, no answer within 3 s" in texts(both[0], WARN)
    assert texts(both[1], BAD) == ""
