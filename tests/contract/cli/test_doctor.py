"""`campaign doctor` on this machine: its GPUs, and what runs on it."""

import asyncio
import io
from pathlib import Path

import pytest
from contract.engine.lab import REPORT as REPORTS
from contract.engine.lab import Lab, campaign
from driver import Driver, gpus
from rich.console import Console
from unit.cli.doctor_lab import look, nowhere, seen, texts

from prefect_campaign.cli import compute, doctor_here, doctor_machines
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, WARN
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger.location import Home

__all__ = ["nowhere"]


def test_it_works_with_nothing_and_makes_nothing(nowhere: Path, tmp_path: Path, driver: Driver, capsys) -> None:
    code, told = look(capsys)
    assert code == 0
    assert told["healthy"] is True
    assert {"This machine", "Versions", "Keys", "Ledger", "Prefect server"} <= {f["group"] for f in told["findings"]}
    assert any("none is configured" in f["what"] for f in told["findings"])
    assert not nowhere.exists()
    assert told["compute"]["memory_mb"] > 0


def test_a_spec_that_asks_for_more_gpus_than_there_are(nowhere: Path, tmp_path: Path, driver: Driver, capsys) -> None:
    driver.set(gpus(2))
    driver.lose(driver.uuids[1])
    (tmp_path / "spec.yaml").write_text(
        "name: x\ncommand: sh -c true {a}\nsweep: {grid: {a: [1]}}\nobjective: {metric: m}\nresources: {gpus: 2}\n"
    )
    code, told = look(capsys, str(tmp_path / "spec.yaml"))
    assert code == 1
    (red,) = [f for f in told["findings"] if f["level"] == BAD]
    assert "asks for 2 GPUs an experiment, and 1 can be used" in red["what"]
    assert any(f["level"] == WARN and "GPU 1" in f["what"] for f in told["findings"])
    assert [g["uuid"] for g in told["compute"]["gpus"]] == [driver.uuids[0]]


async def test_campaigns_that_nobody_drives_and_their_leases_are_told(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(campaign(tmp_path, "until [ -e go ]; do sleep 0.02; done\n" + REPORTS))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        while not lab.ran or lab.states != ["running"]:
            await asyncio.sleep(0.01)
        assert texts(doctor_here.ledger(home), WARN) == ""  # it is driven
        run.cancel()
    told = texts(doctor_here.ledger(home), WARN)
    assert "lab: open (stage only: 1 running, " in told
    assert "campaign resume lab" in told
    assert f"lab: holds {host_name()} slot-0, but nobody drives it -> nothing: they come back" in told
    (tmp_path / "go").touch()
    await lab.run()


async def test_gpus_of_a_machine(driver: Driver) -> None:
    driver.set(gpus(3))
    driver.lose(driver.uuids[2])
    found = await seen(Block("local/ws", {"reserve": ["0"], "slots": 2}))
    assert "2 x RTX 6000 (24 GB each, 48 GB free in all)" in texts(found, GOOD)
    assert "GPU 2: " in texts(found, WARN)
    strange = await seen(Block("local/ws", {"reserve": ["9"]}))
    assert "reserve: '9' matches no GPU" in texts(strange, WARN)


def test_the_compute_summary_counts_all_gpus_by_what_is_free_too(home: Home, driver: Driver) -> None:
    driver.set(gpus(2))
    driver.run(driver.uuids[0], pid=1, used_mb=20_000)
    found = compute.detect(asyncio.run(doctor_machines.local())[1], home)
    assert found.tiers == {"24 GB": 2}
    assert found.tiers_now == {"4 GB": 1, "24 GB": 1}


def test_the_name_of_a_gpu_is_no_markup(home: Home, driver: Driver) -> None:
    driver.set(gpus(1, name="RTX [bold]6[/nope]"))
    found = compute.detect(asyncio.run(doctor_machines.local())[1], home)
    out = io.StringIO()
    Console(file=out, width=100).print(compute.block(found, 100))
    assert "1 x RTX [bold]6[/nope] (24 GB each" in out.getvalue()
