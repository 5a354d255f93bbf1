"""Several launchers of one machine: which one runs a job, and who is asked for it later."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.launchers import make_spec

from prefect_campaign.launch.either import HANDED_NAME, Either
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation


class Member:
    """A launcher of which the test says what it sees."""

    def __init__(self, name: str, slots: int = 2) -> None:
        self.name = name
        self.slots = slots
        self.problem = ""
        self.jobs: dict[str, Handle] = {}
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.cancelled: list[str] = []

    async def look(self) -> list[HostView]:
        self.asked.append("look")
        return [HostView("h", self.slots, launcher=self.name, problem=self.problem)]

    async def submit(self, spec: AttemptSpec) -> Handle:
        if self.error:
            raise self.error
        self.jobs[spec.token] = Handle(self.name, "h", "1")
        return self.jobs[spec.token]

    async def find(self, spec: AttemptSpec) -> Handle | None:
        self.asked.append("find")
        if self.error:
            raise self.error
        return self.jobs.get(spec.token)

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        return {spec.token: Observation("running", detail=self.name) for spec, _ in handles}

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        self.cancelled.append(spec.token)

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Any) -> None:
        on_end(f"{self.name} {spec.token}")

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        return Path(self.name), Path(self.name)

    def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def docker() -> Member:
    return Member("docker", 4)


@pytest.fixture
def local() -> Member:
    return Member("local")


@pytest.fixture
def both(docker: Member, local: Member) -> Either:
    return Either([docker, local])


@pytest.fixture
def spec(tmp_path: Path) -> AttemptSpec:
    return make_spec(tmp_path / "e" / "a1", "true")


async def test_the_first_that_can_is_looked_at_and_gets_the_job(both, docker, local, spec):
    (view,) = await both.look()
    assert (view.launcher, view.slots, both.name, both.slots) == ("docker", 4, "docker", 4)
    assert local.asked == []
    assert (await both.submit(spec)).launcher == "docker"
    docker.problem = "no engine"
    (view,) = await both.look()
    assert (view.launcher, view.slots, view.problem) == ("local", 2, "")
    other = make_spec(Path(spec.run_dir).parent / "a2", "true", token="pc-other")
    assert (await both.submit(other)).launcher == "local"
    docker.problem = ""
    assert (await both.look())[0].launcher == "docker"


async def test_if_none_can_each_says_why(both, docker, local, spec):
    docker.problem, local.problem = "no engine", "no room"
    (view,) = await both.look()
    assert view.problem == "docker: no engine; local: no room"
    docker.error = Transient("no engine")
    with pytest.raises(Transient):
        await both.submit(spec)


async def test_a_member_whose_look_fails_is_passed_over(both, docker):
    async def look() -> Any:
        raise OSError("broken")

    docker.look = look
    assert (await both.look())[0].launcher == "local"


async def test_only_those_that_were_handed_the_job_are_asked_for_it(both, docker, local, spec):
    docker.problem = "no engine"
    await both.look()
    handle = await both.submit(spec)
    docker.asked.clear()
    docker.error = Transient("no engine")
    assert await both.find(spec) == handle
    assert docker.asked == []
    assert (Path(spec.run_dir) / HANDED_NAME).read_text() == "local\n"


async def test_one_that_was_handed_the_job_and_cannot_say_leaves_it_open(both, docker, local, spec):
    await both.look()
    docker.error = Unknown("may have been started")
    with pytest.raises(Unknown):
        await both.submit(spec)
    docker.problem, docker.error = "no engine", Transient("no engine")
    await both.look()
    for call in (both.find(spec), both.submit(spec)):
        with pytest.raises(Transient, match="no engine"):
            await call
    assert not local.jobs


async def test_a_job_that_another_has_is_not_started_again(both, docker, local, spec):
    await both.look()
    handle = await both.submit(spec)
    docker.problem = "no engine"
    await both.look()
    with pytest.raises(Unknown):
        await both.submit(spec)
    assert not local.jobs
    assert await both.find(spec) == handle


async def test_one_that_surely_did_not_start_it_leaves_it_to_the_next(both, docker, local, spec):
    await both.look()
    docker.error = Transient("failed")
    with pytest.raises(Transient):
        await both.submit(spec)
    docker.problem, docker.error = "no engine", None
    await both.look()
    assert await both.find(spec) is None
    assert (await both.submit(spec)).launcher == "local"
    assert (Path(spec.run_dir) / HANDED_NAME).read_text() == "docker\nlocal\n"


async def test_what_was_prepared_before_there_were_two_may_be_anybodys(both, docker, local, spec):
    assert await both.find(spec) is None
    assert docker.asked == local.asked == []
    Path(spec.run_dir).mkdir(parents=True)
    (Path(spec.run_dir) / "job.sh").touch()
    docker.error = Transient("no engine")
    with pytest.raises(Transient):
        await both.find(spec)


async def test_a_launcher_that_is_not_named_any_more_is_asked_for_by_name(both, spec):
    Path(spec.run_dir).mkdir(parents=True)
    (Path(spec.run_dir) / HANDED_NAME).write_text("podman\n")
    with pytest.raises(Unknown, match="podman"):
        await both.find(spec)


async def test_jobs_are_seen_and_ended_by_the_launcher_that_has_them(both, docker, local, spec):
    told: list[str] = []
    others = [replace(spec, token=f"pc-{n}") for n in range(3)]
    names = ("docker", "local", "podman")
    pairs = [(one, Handle(name, "h", "1")) for one, name in zip(others, names, strict=True)]
    seen = await both.observe(pairs)
    assert [seen[one.token].detail for one in others[:2]] == ["docker", "local"]
    assert (seen["pc-2"].status, "podman" in seen["pc-2"].detail) == ("unreachable", True)
    for one, handle in pairs:
        both.watch(one, handle, told.append)
    assert told == ["docker pc-0", "local pc-1"]
    for one, handle in pairs[:2]:
        await both.cancel(one, handle)
    assert (docker.cancelled, local.cancelled) == (["pc-0"], ["pc-1"])
    with pytest.raises(Transient, match="podman"):
        await both.cancel(*pairs[2])
    both.close()
    assert docker.asked[-1] == local.asked[-1] == "close"


def test_two_of_one_kind_are_refused(docker):
    with pytest.raises(Refused, match="two of one kind"):
        Either([docker, Member("docker")])


async def test_a_run_dir_that_cannot_be_made_starts_nothing(both, docker, spec, tmp_path):
    (tmp_path / "file").touch()
    await both.look()
    with pytest.raises(Refused, match="cannot be started"):
        await both.submit(replace(spec, run_dir=str(tmp_path / "file" / "a1")))
    assert not docker.jobs


async def test_what_is_noted_is_written_beside_the_event_loop(tmp_path, monkeypatch) -> None:
    threads = []
    fsync = os.fsync

    def recorded(fd: int) -> None:
        threads.append(threading.current_thread())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    await Either([Member("docker"), Member("local")]).submit(make_spec(tmp_path / "e" / "a1", "true"))
    assert len(threads) == 2
    assert threading.main_thread() not in threads
