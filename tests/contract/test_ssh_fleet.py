"""A campaign on two SSH hosts with GPUs: placed over both, its results here, and one of them dying in the middle."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, until
from nvidia_smi_shim import shim
from ssh_rig import Sshd, running

from prefect_campaign.engine import away
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.ledger import tables as t

GPUS = {"h1": ("GPU-1a", "GPU-1b"), "h2": ("GPU-2a",)}
SEES = """echo "$CAMPAIGN_EXP_ID $CUDA_VISIBLE_DEVICES" >>"$HOME/seen"\n"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[dict[str, Sshd]]:
    made = {name: Sshd(tmp_path / name, name) for name in GPUS}
    for name, sshd in made.items():
        sshd.program_on_path("nvidia-smi", shim(GPUS[name]))
    with running(made["h1"]), running(made["h2"]):
        yield made


def fleet(hosts: dict[str, Sshd]) -> Fleet:
    return Fleet({name: SshLauncher(sshd.host(), poll_seconds=0.05) for name, sshd in hosts.items()})


def lab(folder: Path, script: str, **changes: Any) -> Lab:
    work = folder / "work"
    work.mkdir()
    waits = f"until [ -e {folder}/go ]; do sleep 0.05; done\n"
    policy = {"max_parallel": None, **changes.pop("policy", {})}
    given = {"points": range(3), "resources": {"gpus": 1}, "policy": policy, **changes}
    return Lab(campaign(work, SEES + waits + script, **given))


def seen(hosts: dict[str, Sshd]) -> list[tuple[str, str]]:
    """(host, GPU) of every job, as the jobs saw it themselves."""
    found = []
    for name, sshd in hosts.items():
        path = sshd.home / "seen"
        lines = path.read_text().splitlines() if path.exists() else []
        found += [(name, line.split()[1]) for line in lines]
    return sorted(found)


async def test_experiments_are_spread_over_hosts_and_their_results_come_back(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd]
) -> None:
    here = lab(tmp_path, REPORT)
    async with here.open(fleet(hosts)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: len(seen(hosts)) == 3)
        assert seen(hosts) == [("h1", "GPU-1a"), ("h1", "GPU-1b"), ("h2", "GPU-2a")]
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert here.states == ["done"] * 3
    assert sorted((v.host, v.gpu) for v in here.views) == seen(hosts)
    assert {v.launcher for v in here.views} == {"ssh"}
    assert [v.objective_value for v in here.views] == [0.5] * 3
    assert all((Path(str(v.run_dir)) / "metrics.jsonl").exists() for v in here.views)
    here.settled()


async def test_a_host_that_dies_in_the_middle_is_waited_for_and_its_job_adopted(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.1)
    here = lab(tmp_path, REPORT)
    async with here.open(fleet(hosts)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: here.states == ["running"] * 3)
        hosts["h2"].kill()
        await until(lambda: here.states.count("on_hold") == 1, 60)
        (held,) = [v for v in here.views if v.state == "on_hold"]
        assert held.host == "h2"
        assert "does not answer (host h2 (127.0.0.1:" in held.reason
        # Its GPU stays leased, for the job may run on; the others end as ever.
        (tmp_path / "go").touch()
        await until(lambda: here.states.count("done") == 2, 60)
        assert [r["host"] for r in here.rows(t.leases)] == ["h2"]
        hosts["h2"].start()
        await asyncio.wait_for(run, 120)
    assert here.states == ["done"] * 3
    assert len(here.ran) == 3
    here.settled()


async def test_a_work_folder_that_is_gone_is_said_though_its_host_answers(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(away, "POLL_SECONDS", 0.1)
    here = lab(tmp_path, REPORT)
    async with here.open(fleet(hosts)) as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: here.states == ["running"] * 3)
        root = hosts["h2"].home / ".campaign"
        root.rename(root.with_name("unmounted"))
        await until(lambda: here.states.count("on_hold") == 1, 60)
        (held,) = [v for v in here.views if v.state == "on_hold"]
        assert held.reason.startswith(
            f"host h2 answers, but its work folder {root} is gone; if its disk is not mounted"
        )
        assert "does not answer" not in held.reason
        root.with_name("unmounted").rename(root)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 120)
    assert here.states == ["done"] * 3
    here.settled()


async def test_a_host_that_is_away_from_the_start_leaves_its_share_to_the_other(
    tmp_path: Path, home: Any, hosts: dict[str, Sshd]
) -> None:
    hosts["h1"].kill()
    here = lab(tmp_path, REPORT)
    (tmp_path / "go").touch()
    await here.run(fleet(hosts))
    assert here.states == ["done"] * 3
    assert seen(hosts) == [("h2", "GPU-2a")] * 3
