"""From the spec's `launcher` to the launcher: blocks, several of one machine, and whose containers they are."""

import sys
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import campaign
from contract.launchers import make_spec
from pydantic import ValidationError

from prefect_campaign.blocks.docker import DockerMachine
from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.slurm import SlurmCluster
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Refused, Unknown
from prefect_campaign.tasks import machines
from prefect_campaign.tasks.machines import launcher_of

BLOCKS = {"torch": DockerMachine(image="torch"), "jax": DockerMachine(image="jax"), "desk": LocalMachine(slots=3)}
BLOCKS["lab"] = SlurmCluster(name=host_name())


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    async def loaded(kind: Any, name: str) -> Any:
        assert isinstance(BLOCKS[name], kind)
        return BLOCKS[name]

    monkeypatch.setattr(machines, "_loaded", loaded)
    monkeypatch.delenv("DOCKER_HOST", raising=False)


def spec(folder: Path, *names: str) -> Any:
    return campaign(folder, "", launcher=list(names))


async def test_what_was_given_to_another_machine_is_not_looked_for_here(tmp_path: Path) -> None:
    found = await launcher_of(spec(tmp_path, "local"))
    assert isinstance(found.member(host_name()), LocalLauncher)
    elsewhere = make_spec(tmp_path / "e" / "a1", "true", host="another-machine")
    with pytest.raises(Unknown, match="another-machine"):
        await found.find(elsewhere)


async def test_machines_of_one_name_that_have_nothing_else_in_common_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="another name"):
        await launcher_of(spec(tmp_path, "local", "slurm/lab"))


async def test_an_engine_is_this_machine_by_its_own_name(tmp_path: Path, home: Home) -> None:
    found = await launcher_of(spec(tmp_path, "docker/torch"))
    assert isinstance(found, Fleet)
    launcher = found.member(host_name())
    assert isinstance(launcher, DockerLauncher)
    assert launcher.scope is not None
    assert (launcher.scope.campaign, launcher.scope.ledger) == ("lab", home.ledger_id)


async def test_several_of_one_machine_are_an_order_of_preference(tmp_path: Path) -> None:
    found = await launcher_of(spec(tmp_path, "docker/torch", "local/desk"))
    assert isinstance(found, Fleet)
    both = found.member(host_name())
    assert isinstance(both, Either)
    assert list(both.members) == ["docker", "local"]


@pytest.mark.parametrize("names", [("docker/torch", "docker/jax"), ("local", "local/desk")])
async def test_two_of_one_kind_for_one_machine_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="there already"):
        await launcher_of(spec(tmp_path, *names))


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect_campaign.blocks.docker")
    monkeypatch.setitem(sys.modules, "prefect_docker.host", None)
    with pytest.raises(Refused, match=r"prefect-campaign\[docker\]"):
        await launcher_of(spec(tmp_path, "docker/torch"))


# -- the block ------------------------------------------------------------------------------------------------------


def test_the_engine_is_the_hosts_or_the_environments_or_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DockerMachine(image="x").settings().address == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    assert DockerMachine(image="x").settings().address == "unix:///run/mine.sock"
    assert DockerMachine(image="x", host={"base_url": "unix:///a"}).settings().address == "unix:///a"


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:2375", "ssh://me@lab"])
def test_an_engine_elsewhere_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="not on this machine"):
        DockerMachine(image="x", host={"base_url": address}).launcher()


@pytest.mark.parametrize(
    "bad",
    [
        {"image": ""},
        {"secrets": ["WANDB_API_KEY=abc"]},
        {"secrets": ["A B"]},
        {"memory_mb": 1},
        {"pids": 0},
        {"cpus": 0},
    ],
)
def test_a_bad_field_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))) as told:
        DockerMachine(**{"image": "x", **bad})
    assert "abc" not in str(told.value).splitlines()[0]


def test_a_check_of_the_machine_depends_on_what_jobs_find_there() -> None:
    def seen(**changes: Any) -> str:
        return repr(DockerMachine(image="x", **changes).launcher().host)

    assert seen() == seen() == seen(slots=9) == seen(reserve=["0"])
    assert len({seen(), seen(network="host"), seen(data={"/d": ""}), seen(env={"A": "1"}), seen(memory_mb=99)}) == 5


def test_every_field_is_described() -> None:
    fields = set(DockerMachine.model_fields) - {"block_type_slug"}
    assert not [name for name in fields if not DockerMachine.model_fields[name].description]


def test_a_ledger_is_the_same_whoever_logs_in(tmp_path: Path) -> None:
    def of(url: str) -> str:
        return Home(tmp_path, url).ledger_id

    assert of("postgresql://a:secret@db/x") == of("postgresql+psycopg://b@db/x?sslmode=require")
    assert len({of("postgresql://db/x"), of("postgresql://db/y"), of("postgresql://db2/x"), of("sqlite:////x")}) == 4
