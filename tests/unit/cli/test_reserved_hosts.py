"""`campaign check` refuses to reserve GPUs of a host that the campaign does not run on."""

from typing import Any

import pytest
from typer.testing import CliRunner

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.cli import doctor_prefect, server
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.main import app
from prefect_campaign.cli.reserved_hosts import check_reserved_hosts
from prefect_campaign.launch.process import host_name
from prefect_campaign.model.errors import Refused

SPEC = """\
name: tiny
command: "true {{x}} {{seed}}"
sweep: {{grid: {{x: [1], seed: [0]}}}}
objective: {{metric: acc}}
launcher: [local, ssh/gpu1]
policy: {{gpus: {{reserve: ["{entry}"]}}}}
"""


@pytest.fixture(autouse=True)
def _no_server(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "known_server", lambda home: (None, False))


def campaign(launcher: list[str], *reserve: str | int) -> Campaign:
    policy = {"gpus": {"reserve": list(reserve)}}
    objective, sweep = Objective(metric="acc"), Sweep.grid(x=[1], seed=[0])
    spec = {"name": "tiny", "command": "true {x} {seed}", "launcher": launcher, "policy": policy}
    return Campaign.model_validate({**spec, "objective": objective, "sweep": sweep})


@pytest.mark.parametrize(("entry", "code"), [("gpu1:0", 0), ("gpu2:0", 2)])
def test_the_verb_says_so_in_one_line(tmp_path: Any, entry: str, code: int) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.format(entry=entry))
    said = CliRunner().invoke(app, ["check", str(tmp_path / "spec.yaml")])
    if code:
        assert isinstance(said.exception, Refused)
        assert "spec.yaml: policy.gpus.reserve: 'gpu2:0': host 'gpu2' is not in `launcher`" in str(said.exception)
        assert f"hosts are {', '.join(sorted(['gpu1', host_name()]))} (names of machines" in str(said.exception)
    else:
        assert said.exit_code == 0


@pytest.mark.parametrize(
    ("launcher", "entry"),
    [
        (["local"], 0),
        (["local"], f"{host_name()}:0"),
        (["docker/torch"], f"{host_name()}:GPU-1234"),
        (["ssh/gpu1"], "GPU-1234"),
        (["ssh/gpu1"], "gpu1:3"),
    ],
)
def test_what_may_be_reserved(launcher: list[str], entry: str | int) -> None:
    check_reserved_hosts(campaign(launcher, entry), "spec.yaml")


def test_a_machine_whose_block_has_another_name_is_known_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def blocks(url: str) -> list[Block]:
        return [Block("ssh/big", {"name": "gpu1.lab"})]

    monkeypatch.setattr(server, "known_server", lambda home: ("http://127.0.0.1:1/api", True))
    monkeypatch.setattr(server, "answers", lambda url: True)
    monkeypatch.setattr(doctor_prefect, "blocks", blocks)
    check_reserved_hosts(campaign(["ssh/big"], "gpu1.lab:0"), "spec.yaml")
    with pytest.raises(Refused, match=r"hosts are gpu1\.lab;"):
        check_reserved_hosts(campaign(["ssh/big"], "big.lab:0"), "spec.yaml")
