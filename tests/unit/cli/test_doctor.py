"""`campaign doctor`: this machine, keys, the ledger, GPUs; machines by SSH over real sshd's."""

import asyncio
import io
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import Driver, gpus
from rich.console import Console
from ssh_rig import Sshd, running
from unit.engine.lab import REPORT as REPORTS
from unit.engine.lab import Lab, campaign

from prefect_campaign.cli import compute, doctor, doctor_here, doctor_machines, findings
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding
from prefect_campaign.launch.process import host_name
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Refused


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there, and no Prefect server."""
    for name in ("CAMPAIGN_LEDGER_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAMPAIGN_HOME", str(tmp_path / "none" / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return tmp_path / "none" / "home"


def look(capsys: pytest.CaptureFixture[str], spec: str = "") -> tuple[int, dict[str, Any]]:
    code = doctor.show_doctor(spec, as_json=True)
    return code, json.loads(capsys.readouterr().out)


def texts(found: list[Finding], level: str) -> str:
    return "\n".join(f"{one.what} -> {one.do}" for one in found if one.level == level)


def test_it_works_with_nothing_and_makes_nothing(nowhere: Path, tmp_path: Path, driver: Driver, capsys) -> None:
    code, told = look(capsys)
    assert code == 0
    assert told["healthy"] is True
    assert {"This machine", "Versions", "Keys", "Ledger", "Prefect server"} <= {f["group"] for f in told["findings"]}
    assert any("none is configured" in f["what"] for f in told["findings"])
    assert not nowhere.exists()
    assert told["compute"]["memory_mb"] > 0


def test_a_bad_spec_is_bad_input(nowhere: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\n")
    with pytest.raises(Refused, match=r"bad\.yaml"):
        doctor.show_doctor(str(tmp_path / "bad.yaml"), as_json=True)


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


# -- here -----------------------------------------------------------------------------------------------------------


def test_no_key_and_no_part_of_one_is_told() -> None:
    secret = "sk-very-secret-0123456789"
    for value in (secret, f" {secret}", f'"{secret}"', f"{secret}\n"):
        found = doctor_here.keys({"WANDB_API_KEY": value, "HF_TOKEN": value, "ANTHROPIC_API_KEY": value})
        assert {one.level for one in found} == {GOOD if value == secret else WARN}
        assert "secret" not in str(found).lower().replace("secrets", "")
        assert not any(secret[n : n + 6] in str(found) for n in range(len(secret) - 6))


def test_keys_that_are_missing_are_told_with_what_that_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor_here, "_hub_login", lambda: False)
    found = doctor_here.keys({"ANTHROPIC_API_KEY": "  "})
    assert [one.level for one in found[:2]] == [NOTE, NOTE]
    assert "kept offline" in found[0].what
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password hidden\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert doctor_here.keys({})[0].level == GOOD
    assert "hidden" not in str(doctor_here.keys({}))


def test_a_home_that_cannot_be_a_folder_is_red(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        found = doctor_here.machine(Home(path, "sqlite:///none"))
        assert "set CAMPAIGN_HOME to a folder of yours" in texts(found, BAD)


def test_little_disk_space_is_told(tmp_path: Path) -> None:
    levels = [doctor_here.disk("g", "x", mb, "do").level for mb in (500, 5000, 50_000)]
    assert levels == [BAD, WARN, GOOD]


def test_a_damaged_ledger_is_red_and_left_alone(home: Home) -> None:
    path = home.path / "ledger.db"
    path.write_bytes(b"this is no database at all, but long enough to be looked at as one" * 20)
    before = path.read_bytes()
    found = doctor_here.ledger(home)
    assert "ledger.db" in texts(found, BAD)
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_release_is_red(home: Home, ledger: Any) -> None:
    with sqlite3.connect(home.path / "ledger.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "upgrade prefect-campaign" in texts(doctor_here.ledger(home), BAD)


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


# -- machines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("host"), "gpu1")) as up:
        yield up


def block(sshd: Sshd, **changes: Any) -> Block:
    host = sshd.host()
    fields = ("name", "address", "port", "key_file", "known_hosts", "config_file")
    return Block(f"ssh/{host.name}", {**{name: getattr(host, name) for name in fields}, **changes})


async def seen(one: Block) -> list[Finding]:
    return await findings.limited("x", one.launcher, doctor_machines.machine(one))


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
        ({"key_file": "/nowhere/key"}, "there is no file /nowhere/key", ""),
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


async def test_a_machine_that_never_answers_hides_nothing(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "LIMIT_SECONDS", 3.0)
    hung = Sshd(tmp_path / "hung", "hung", shell="/bin/sleep 60 #")
    with running(hung):
        both = await asyncio.gather(seen(block(hung)), seen(block(sshd)))
    assert "no answer within 3 s" in texts(both[0], BAD)
    assert texts(both[1], BAD) == ""


async def test_gpus_of_a_machine(sshd: Sshd, driver: Driver) -> None:
    driver.set(gpus(3))
    driver.lose(driver.uuids[2])
    found = await seen(Block("local/ws", {"reserve": ["0"], "slots": 2}))
    assert "2 x RTX 6000 (24 GB each, 48 GB free in all)" in texts(found, GOOD)
    assert "GPU 2: " in texts(found, WARN)
    strange = await seen(Block("local/ws", {"reserve": ["9"]}))
    assert "reserve: '9' matches no GPU" in texts(strange, WARN)


# -- together -------------------------------------------------------------------------------------------------------


def test_what_blocks_for_ever_holds_up_neither_the_others_nor_the_end() -> None:
    async def run() -> list[Finding]:
        return await findings.limited("g", "a dead disk", findings.aside(lambda: time.sleep(30) or []))

    findings_limit, findings.LIMIT_SECONDS = findings.LIMIT_SECONDS, 0.05
    try:
        (found,) = asyncio.run(run())
    finally:
        findings.LIMIT_SECONDS = findings_limit
    assert found.level == BAD
    assert "no answer" in found.what


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_picture_fits_its_width(width: int) -> None:
    from rich.console import Console

    found = [
        Finding("A", GOOD, "fine"),
        Finding("A", BAD, "long " * 30, "do " * 40),
        Finding("B", WARN, "/a/path/" + "x" * 200, "short"),
        Finding("B", NOTE, "[red]not markup[/red]"),
    ]
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(findings.render(found, width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "[red]not markup[/red]" in text
    assert findings.summary(found).plain == "1 to mend, 1 to look at."


@pytest.mark.parametrize(
    ("mib", "tier"),
    [
        (24564, "24 GB"),
        (81559, "24 GB"),
        (16376, "16 GB"),
        (15360, "16 GB"),
        (8192, "8 GB"),
        (4096, "4 GB"),
        (2048, "under 4 GB"),
    ],
)
def test_tiers(mib: int, tier: str) -> None:
    assert compute.tier_of(mib) == tier


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
