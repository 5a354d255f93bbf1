"""`campaign doctor` on queues: PBS, and one that is described by commands."""

from pathlib import Path
from typing import Any

import pytest
from acme_rig import DESCRIPTION, Acme
from pbs_rig import FakePbs

from prefect_campaign.cli import doctor_machines
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePbs:
    fake = FakePbs(tmp_path / "pbs")
    monkeypatch.setenv("PATH", str(fake.bin), prepend=":")
    return fake


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Acme:
    made = Acme(tmp_path / "acme")
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


async def look(kind: str, **data: Any) -> list[Finding]:
    return await doctor_machines.machine(Block(f"{kind}/lab", {"name": "lab", **data}))


def texts(found: list[Finding], level: str) -> str:
    return "\n".join(f"{one.what} -> {one.do}" for one in found if one.level == level)


async def test_a_pbs_that_answers(pbs: FakePbs) -> None:
    found = await look("pbs", queue="workq", max_jobs=7)
    assert texts(found, GOOD) == "PBS 23.06.06 answers; up to 7 jobs at once -> "
    assert len(found) == 1


async def test_what_is_wrong_with_a_pbs(pbs: FakePbs) -> None:
    pbs.fail("nohistory")
    found = await look("pbs", queue="nosuch")
    assert "queue nosuch: Unknown queue nosuch -> correct `queue`" in texts(found, BAD)
    assert "job_history_enable" in texts(found, NOTE)
    assert "is not started" in texts(await look("pbs", queue="closed"), WARN)
    pbs.fail("down")
    assert "PBS does not answer" in texts(await look("pbs"), BAD)
    assert "see that its server is up" in texts(await look("pbs"), BAD)
    assert "qstat is not installed" in texts(await look("pbs", bin_folder="/opt/none"), BAD)
    assert "is not one word" in texts(await look("pbs", queue="a b"), BAD)


async def test_a_command_queue_that_answers(acme: Acme) -> None:
    found = await look("command", **DESCRIPTION)
    assert texts(found, GOOD) == "acme answers, 0 jobs listed; up to 20 at once -> "
    assert len(found) == 1


async def test_what_is_wrong_with_a_command_queue(acme: Acme) -> None:
    task = acme.folder / "tasks" / "t-00001"
    task.mkdir()
    (task / "phase").write_text("Hibernate")
    (task / "title").write_text("x")
    (task / "label").write_text("-")
    assert "`states` does not explain Hibernate" in texts(await look("command", **DESCRIPTION), WARN)
    nameless = {**DESCRIPTION, "job_pattern": r"^(?P<id>t-\d+) +(?P<state>\w+)"}
    assert "shows no names" in texts(await look("command", **nameless), WARN)
    wrong = {**DESCRIPTION, "job_pattern": r"^(?P<id>j-\d+) +(?P<name>\w+) +(?P<state>\w+)"}
    assert "job_pattern finds no job in the 3 lines" in texts(await look("command", **wrong), NOTE)
    acme.fail("down")
    assert "503" in texts(await look("command", **DESCRIPTION), BAD)
    broken = {**DESCRIPTION, "job_pattern": "("}
    assert "job_pattern" in texts(await look("command", **broken), BAD)
