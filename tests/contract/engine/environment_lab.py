"""Campaigns whose hosts are checked before their first use."""

from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign

from prefect_campaign.engine import check_run, environment, host_check
from prefect_campaign.ledger import tables as t

DRY = """[ "$2" = --dry-run ] && { echo "$CAMPAIGN_EXP_ID $CUDA_VISIBLE_DEVICES" >>dry; DO; exit 0; }\n"""


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(host_check, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(check_run, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(environment, "STALE_SECONDS", 0.0)
    monkeypatch.setattr(environment, "AWAY_SECONDS", 0.05)


PYTHON7 = "python7 job.sh {x}"
WORKS = """#!/bin/sh\n[ "$1" = -c ] || exec sh "$@"\n"""
"""A python7."""


def dry_campaign(folder: Path, do: str = ":", script: str = REPORT, **changes: Any) -> Any:
    """Its dry runs leave a line in ``dry``, then `do`."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    made = campaign(work, "", **{"policy": {"dry_run": ["--dry-run"], **changes.pop("policy", {})}, **changes})
    # What jobs leave behind must not count as changed code.
    (work / "job.sh").write_text(
        f'cd "{folder}"\n' + DRY.replace("DO", do) + f'echo "$CAMPAIGN_EXP_ID a$CAMPAIGN_ATTEMPT" >>work/ran\n{script}'
    )
    (work / ".gitignore").write_text("ran\n")
    return made


def dry_runs(folder: Path) -> list[str]:
    path = folder / "dry"
    return path.read_text().splitlines() if path.exists() else []


def steps(lab: Lab) -> list[dict[str, dict[str, str]]]:
    """Of each check on record, what each step came to."""
    return [{one["step"]: one for one in row["reasons"]} for row in lab.rows(t.host_checks)]


def host_events(lab: Lab) -> list[dict[str, Any]]:
    return [row["data"] for row in lab.rows(t.events) if row["kind"] == "host"]
