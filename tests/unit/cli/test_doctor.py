"""`campaign doctor`: keys, the ledger, limits, and how all of it is shown."""

import asyncio
import io
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from unit.cli.doctor_lab import nowhere, texts

from prefect_campaign.cli import compute, doctor, doctor_here, findings
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.devices import Gpu
from prefect_campaign.model.errors import Refused

__all__ = ["nowhere"]


def test_a_bad_spec_is_bad_input(nowhere: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\n")
    with pytest.raises(Refused, match=r"bad\.yaml"):
        doctor.show_doctor(str(tmp_path / "bad.yaml"), as_json=True)


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


# -- together -------------------------------------------------------------------------------------------------------


def test_what_blocks_for_ever_holds_up_neither_the_others_nor_the_end() -> None:
    async def run() -> list[Finding]:
        return await findings.limited("g", "a dead disk", findings.aside(lambda: time.sleep(30) or []), 0.05)

    (found,) = asyncio.run(run())
    assert found.level == WARN  # it may be this machine that is busy
    assert found.what == "a dead disk: slow, no answer within 0.05 s"
    assert "--limit 0.1" in found.do


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_picture_fits_its_width(width: int) -> None:
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


def test_the_highest_tier_has_no_upper_end() -> None:
    cards = tuple(Gpu(f"GPU-{mib}", 0, "x", mib) for mib in (81559, 24564, 16376))
    found = compute.Compute("550", "12.4", cards, 2, 1, 1, 1)
    console = Console(file=io.StringIO(), width=100)
    console.print(compute.block(found, 100))
    assert "2 x 24 GB or more + 1 x 16 GB by all of their memory" in console.file.getvalue()  # type: ignore[attr-defined]


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
