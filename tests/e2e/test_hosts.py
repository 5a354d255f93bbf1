"""A campaign on two SSH hosts with GPUs, from Prefect blocks to results, as a user has it."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.world import World
from nvidia_smi_shim import shim
from ssh_rig import Sshd, running

SAVE = """
from prefect_campaign.blocks.ssh import SshMachine
SshMachine(name={name!r}, address="127.0.0.1", port={port}, key_file={key!r}, known_hosts={known!r},
           config_file={config!r}).save({name!r}, overwrite=True)
"""


@pytest.fixture
def hosts(tmp_path: Path, world: World) -> Iterator[dict[str, Sshd]]:
    made = {name: Sshd(tmp_path / f"ssh-{name}", name) for name in ("gpu1", "gpu2")}
    for name, sshd in made.items():
        sshd.program_on_path("nvidia-smi", shim([f"GPU-{name}-{n}" for n in range(2)]))
    with running(made["gpu1"]), running(made["gpu2"]):
        for name, sshd in made.items():
            host = sshd.host()
            world.python(
                SAVE.format(
                    name=name, port=host.port, key=host.key_file, known=host.known_hosts, config=host.config_file
                )
            )
        yield made


def test_a_campaign_on_two_hosts(world: World, hosts: dict[str, Sshd]) -> None:
    work = world.folder / "work"
    work.mkdir()
    (work / "train.sh").write_text('echo "sees $CUDA_VISIBLE_DEVICES in $HOME"; sleep 1; echo "final/x=$1"\n')
    spec = world.spec(
        command=["sh", "train.sh", "{method}"],
        workdir=str(work),
        sweep={"grid": {"method": [1, 2, 3], "seed": [0]}},
        resources={"gpus": 1},
        launcher=["ssh/gpu1", "ssh/gpu2"],
        policy={"full_retries": 0},
    )
    done = world.campaign("run", spec, "--approve", "CONTINUE", "--by", "ann")
    assert "campaign tiny: completed" in done.out
    assert world.states("full") == ["done"] * 3
    results = world.home / "campaigns" / "tiny" / "results" / "all_results.csv"
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert {row["host"] for row in rows} == {"gpu1", "gpu2"}
    for row in rows:
        said = (world.home / "campaigns/tiny/runs" / row["exp_id"] / "a1/stdout.log").read_text()
        assert said.startswith(f"sees {row['gpu']} in {hosts[row['host']].home}")
        assert row["gpu"].startswith(f"GPU-{row['host']}-")
    assert world.rows("SELECT * FROM leases") == []


def test_a_block_that_is_not_there_is_one_line(world: World) -> None:
    done = world.campaign("run", world.spec(launcher="ssh/nowhere"), code=2)
    assert world.rows("SELECT * FROM campaigns") == []
    assert "launcher: no Prefect block 'nowhere' of type Campaign SSH Machine" in done.err
