"""`campaign doctor` on this machine: its GPUs, and what runs on it."""

import asyncio
import io
from functools import partial
from pathlib import Path

import pytest
from contract.engine.lab import REPORT as REPORTS
from contract.engine.lab import Lab, campaign
from driver import Driver, gpus
from rich.console import Console
from unit.cli.doctor_lab import look, nowhere, seen, texts

from prefect_campaign.cli import compute, doctor_here, doctor_machines
from prefect_campaign.cli.doctor_numbers import named_by
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, WARN
from prefect_campaign.launch.gpus.inventory import shared_reader
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger import gpu_numbers
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger

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


async def test_a_number_that_means_another_gpu_than_the_driver_says_today(home: Home, driver: Driver) -> None:
    driver.set(gpus(4))
    uuids = list(driver.uuids)
    launcher, ledger = LocalLauncher(), Ledger.open(home)
    launcher.number_by(Numbers(partial(gpu_numbers.keep, ledger)))
    await launcher.look()
    ws = Block("local/ws", {"reserve": ["0", f"{host_name()}:2", uuids[1]]})
    assert " means " not in texts(await seen(ws), WARN)
    driver.vanish(uuids[1])
    shared_reader().close()
    shared_reader.cache_clear()  # another process looks now
    told = texts(await seen(ws), WARN)
    assert (
        f"reserve: 2 means {uuids[2]} (RTX 6000), as when it was first seen; the driver calls it 1 now, "
        f"and {uuids[3]} (RTX 6000) 2 -> write the UUID instead; to have numbers counted anew: "
        f"`campaign gpus --forget` each of {uuids[2]}, {uuids[3]}, {uuids[1]}"
    ) in told
    assert told.count(" means ") == 1
    assert "GPU 1: has vanished" in told
    spec = campaign(home.path, "", policy={"gpus": {"reserve": [1], "avoid": [f"{host_name()}:3", "*4090*"]}})
    here, _ = await doctor_machines.local(named=named_by(spec, "local"))
    assert f"policy.gpus.reserve: 1 means {uuids[1]} (RTX 6000), as when it was first seen; that has van" in (
        texts(here, WARN)
    )
    assert f"policy.gpus.avoid: 3 means {uuids[3]}" in texts(here, WARN)
    assert named_by(spec, "ssh/lab") == ()
    with ledger.write() as connection:
        for uuid in uuids[1:]:
            gpu_numbers.forget(connection, uuid)
    await LocalLauncher().look()
    assert " means " not in texts(await seen(ws), WARN)


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
