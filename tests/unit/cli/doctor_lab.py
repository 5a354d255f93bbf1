"""What `campaign doctor` finds, for tests to look at."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefect_campaign.cli import doctor, doctor_machines, findings
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.findings import Finding


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


async def seen(one: Block, limit: float = findings.LIMIT_SECONDS) -> list[Finding]:
    return await findings.limited("x", one.launcher, doctor_machines.machine(one), limit)
