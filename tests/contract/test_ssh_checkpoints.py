"""Checkpoints follow their experiment from one machine to the other, whole or not at all."""

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until
from ssh_rig import Sshd, running
from ssh_world import World, world

from prefect_campaign.launch.checkpoints import Checkpoints, files_here
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.queue.away import place_of
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.slurm.ssh import launcher_through
from prefect_campaign.launch.ssh import checkpoints
from prefect_campaign.launch.ssh.checkpoints import RemoteCheckpoints
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import AttemptSpec

__all__ = ["world"]

HERE = host_name()
# Fails once it has made checkpoints, and ends well where it finds them; says which it found, and as what it ran.
RESUMES = f"""
    cd "$CAMPAIGN_CHECKPOINT_DIR"
    echo "a$CAMPAIGN_ATTEMPT $(cat sub/part last 2>/dev/null | tr '\\n' ' ')" >>"$1"
    [ "$CAMPAIGN_ATTEMPT" -gt 1 ] || {{ mkdir sub; echo one >sub/part; ln -s sub/part last; exit 1; }}
    {REPORT}
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[dict[str, Sshd]]:
    made = {name: Sshd(tmp_path / name, name) for name in ("h1", "h2")}
    with running(made["h1"]), running(made["h2"]):
        yield made


class Full(SshLauncher):
    """On which nothing more can be placed."""

    async def look(self) -> list[Any]:
        return [replace(view, slots=0) for view in await super().look()]


class FullHere(LocalLauncher):
    """The same of this machine."""

    async def look(self) -> list[Any]:
        return [replace(view, slots=0) for view in await super().look()]


def fleet(hosts: dict[str, Sshd], on: str, *full: str) -> Fleet:
    """A fleet in which only `on` has room."""
    made = {name: (SshLauncher if name == on else Full)(hosts[name].host(), poll_seconds=0.05) for name in hosts}
    here = {host_name(): LocalLauncher() if on == host_name() else FullHere()}
    return Fleet({name: one for name, one in {**made, **here}.items() if name in (on, *full)})


def lab(tmp_path: Path) -> Lab:
    (tmp_path / "work").mkdir()
    policy = {"pilot_retries": 0, "max_parallel": 1}
    return Lab(campaign(tmp_path / "work", RESUMES, points=[str(tmp_path / "found")], policy=policy))


def told(lab: Lab) -> list[tuple[str, str, str]]:
    return [(r["old"], r["new"], r["why"]) for r in lab.rows(t.events) if r["kind"] == "checkpoints"]


async def moved(lab: Lab, hosts: dict[str, Sshd], first: str, then: str) -> None:
    """Its first attempt, which fails, on one machine; its second one on another."""
    await lab.run(fleet(hosts, first))
    assert lab.states == ["failed"]
    lab.reopen()
    lab.open_stage()
    await lab.run(fleet(hosts, then, first))
    assert lab.states == ["done"]
    assert [(r["host"], r["attempt"]) for r in lab.rows(t.attempts)] == [(first, 1), (then, 2)]
    lab.settled()


@pytest.mark.parametrize(("first", "then"), [("h1", "h2"), ("h1", HERE), (HERE, "h2")], ids=["over", "back", "out"])
async def test_a_retry_on_another_machine_goes_on_from_the_checkpoint(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd], first: str, then: str
) -> None:
    here = lab(tmp_path)
    await moved(here, hosts, first, then)
    assert (tmp_path / "found").read_text() == "a1 \na2 one one \n"
    ((old, new, why),) = told(here)
    assert (old, new) == (first, then)
    assert why.startswith("checkpoints (1 files, 0.0 MB) came from ")
    # The old machine keeps its own.
    for where in (first, then):
        assert len(list((hosts[where].home if where in hosts else home.path).rglob("checkpoints/sub/part"))) == 1
    assert not list(tmp_path.rglob(".checkpoints.new"))


async def test_a_host_that_is_away_is_named_and_the_retry_starts_anew(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd]
) -> None:
    here = lab(tmp_path)
    await here.run(fleet(hosts, "h1"))
    here.reopen()
    here.open_stage()
    hosts["h1"].kill()
    await here.run(fleet(hosts, "h2", "h1"))
    assert here.states == ["done"]
    assert (tmp_path / "found").read_text() == "a1 \na2 \n"
    ((_, _, why),) = told(here)
    assert why.startswith("checkpoints on h1 cannot be had: host h1 (127.0.0.1:")
    assert why.endswith("; starts anew")
    here.settled()


async def test_hosts_with_one_file_system_need_no_copy(tmp_path: Path, home: Any, hosts: dict[str, Sshd]) -> None:
    hosts["h2"].kill()
    hosts["h2"].environment["HOME"] = str(hosts["h1"].home)
    here = lab(tmp_path)
    with running(hosts["h2"]):
        await moved(here, hosts, "h1", "h2")
    assert (tmp_path / "found").read_text() == "a1 \na2 one one \n"
    assert told(here) == []
    assert not list(home.path.rglob("sub/part"))


async def hang(*_: Any) -> None:
    await asyncio.sleep(600)


async def test_an_orchestrator_that_is_stopped_while_it_copies_goes_on_with_that(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = lab(tmp_path)
    await here.run(fleet(hosts, "h1"))
    here.reopen()
    here.open_stage()
    with monkeypatch.context() as patched:
        patched.setattr(RemoteCheckpoints, "send", hang)
        async with here.open(fleet(hosts, "h2", "h1")) as dispatcher:
            driving = asyncio.create_task(dispatcher.run())
            await until(lambda: "are brought to h2" in here.only.reason, 60)
            assert here.states == ["launching"]
            driving.cancel()
    await here.run(fleet(hosts, "h2", "h1"))
    assert (tmp_path / "found").read_text() == "a1 \na2 one one \n"
    assert [r["attempt"] for r in here.rows(t.attempts)] == [1, 2]
    here.settled()


# -- one folder -----------------------------------------------------------------------------------------------


def through_ssh(host: SshHost) -> Checkpoints:
    return SshLauncher(host).checkpoints


def through_slurm(host: SshHost) -> Checkpoints:
    found = launcher_through(host, SlurmSettings("lab")).checkpoints
    assert found
    return found


def through_queue(host: SshHost) -> Checkpoints:
    found = place_of("lab", host, (), {}).checkpoints
    assert found
    return found


def filled(spec: AttemptSpec, **files: int) -> Path:
    """Its folder here, with files of so many bytes."""
    folder = Path(spec.checkpoint_dir)
    for name, size in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
    return folder


@pytest.mark.parametrize("of", [through_ssh, through_slurm, through_queue])
async def test_what_is_in_a_folder_is_told_alike_here_and_there(
    world: World, hosts: dict[str, Sshd], of: Callable[[SshHost], Checkpoints]
) -> None:
    spec, there = world.spec("true", name="e 'x'"), of(hosts["h1"].host())
    assert not await there.files(spec)
    folder = filled(spec, a=3, b__c=100_000, empty=0)
    (folder / "odd\n name").write_text("x")
    (folder / "link").symlink_to("a")
    here = files_here(folder)
    assert (here.count, here.size) == (4, 100_004)
    await there.send(spec)
    assert await there.files(spec) == here
    shutil.rmtree(folder)
    await there.fetch(spec)
    assert files_here(folder) == here
    assert (folder / "link").readlink() == Path("a")
    os.utime(folder / "a", (1, 1))
    assert files_here(folder) != here


async def test_files_that_cannot_be_told_are_not_taken_for_none(world: World, hosts: dict[str, Sshd]) -> None:
    spec, there = world.spec("true"), through_ssh(hosts["h1"].host())
    filled(spec, a=3)
    await there.send(spec)
    for name in ("stat", "sha256sum"):
        broken = hosts["h1"].program_on_path(name, "#!/bin/sh\nexit 127\n")
        with pytest.raises(Transient, match="cannot be understood"):
            await there.files(spec)
        broken.unlink()
    assert await there.files(spec)


async def test_hosts_that_share_the_folder_are_not_elsewhere(world: World, hosts: dict[str, Sshd]) -> None:
    spec = world.spec("true")
    assert through_ssh(hosts["h1"].host()).elsewhere(spec)
    assert not through_ssh(hosts["h1"].host(shared=(str(world.folder),))).elsewhere(spec)


@pytest.mark.parametrize("way", ["send", "fetch"])
async def test_half_a_copy_never_looks_like_a_checkpoint_and_the_next_try_goes_on(
    world: World, hosts: dict[str, Sshd], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, there = world.spec("true"), through_ssh(hosts["h1"].host())
    filled(spec, model=200_000, optimizer=700_000)
    whole = files_here(Path(spec.checkpoint_dir))
    if way == "fetch":
        await there.send(spec)
        shutil.rmtree(spec.checkpoint_dir)
    base = hosts["h1"].home if way == "send" else world.folder / "home"
    with monkeypatch.context() as slow:
        slow.setattr(checkpoints, "_OPTIONS", (*checkpoints._OPTIONS, "--bwlimit=300"))
        copying = asyncio.create_task(getattr(there, way)(spec))
        await until(lambda: list(base.rglob(".checkpoints.new/model")))
        copying.cancel()
        await asyncio.wait([copying])
    assert copying.cancelled()
    assert not list(base.rglob("checkpoints"))
    (new,) = base.rglob(".checkpoints.new")
    assert not (new / "optimizer").exists()
    first = (new / "model").stat().st_ino
    (new / "stale").write_text("of an earlier copy")
    await getattr(there, way)(spec)
    placed = new.with_name("checkpoints")
    assert files_here(placed) == whole
    assert (placed / "model").stat().st_ino == first
    assert not new.exists()


@pytest.mark.parametrize("way", ["send", "fetch"])
async def test_a_copy_that_is_whole_but_not_in_its_place_yet_is_put_there(
    world: World, hosts: dict[str, Sshd], way: str
) -> None:
    spec, there = world.spec("true"), through_ssh(hosts["h1"].host())
    folder = filled(spec, model=200_000)
    await there.send(spec)
    if way == "send":
        (folder,) = hosts["h1"].home.rglob("checkpoints")
    copied = (folder / "model").stat().st_ino
    folder.rename(folder.with_name(".checkpoints.new"))
    await getattr(there, way)(spec)
    assert (folder / "model").stat().st_ino == copied
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("way", ["send", "fetch"])
async def test_what_was_in_the_place_of_a_copy_is_kept(world: World, hosts: dict[str, Sshd], way: str) -> None:
    spec, there = world.spec("true"), through_ssh(hosts["h1"].host())
    filled(spec, first=10)
    await there.send(spec)
    folder = filled(spec, second=20)
    if way == "send":
        (folder,) = hosts["h1"].home.rglob("checkpoints")
    for n in range(2):
        (folder / f"mine-{n}").write_text("x")
        await getattr(there, way)(spec)
        # What a job writes over in its place stays as it was in what is kept.
        assert (folder / "first").stat().st_nlink == 1
    kept = {p.name: sorted(os.listdir(p)) for p in folder.parent.iterdir() if p.name.startswith("checkpoints")}
    if way == "send":
        now, before = ["first", "second"], (["first", "mine-0"], ["first", "mine-1", "second"])
    else:
        now, before = ["first"], (["first", "mine-0", "second"], ["first", "mine-1"])
    assert kept == {"checkpoints": now, "checkpoints.before": before[0], "checkpoints.before-2": before[1]}
