"""A container that runs though its attempt is over on record is ended: that one alone, and nothing of anybody else."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from contract.docker_faults import RUNS, runs
from contract.launchers import make_spec, wait_until
from docker_lab import Lab
from fake_docker import FakeEngine

from prefect_campaign.launch.docker import closed
from prefect_campaign.launch.docker.settings import Scope
from prefect_campaign.ledger.closed import Closed
from prefect_campaign.model.records import AttemptSpec

OURS = Scope("tta", "L1", "a ledger")


@pytest.fixture
def on_record(monkeypatch: pytest.MonkeyPatch) -> dict[str, Closed]:
    """What the ledger says is over; filled by the test."""
    told: dict[str, Closed] = {}

    def read(url: str, campaign: str, tokens: Any, before: float) -> dict[str, Closed]:
        assert (url, campaign) == (OURS.url, OURS.campaign)
        assert before < time.time() - 60
        return {token: one for token, one in told.items() if token in tokens}

    monkeypatch.setattr(closed, "closed_attempts", read)
    return told


@pytest.fixture
def started(lab: Lab, tmp_path: Path):
    async def start(name: str, scope: Scope | None = OURS) -> tuple[AttemptSpec, str]:
        spec = make_spec(tmp_path / name / "a1", "sh", "-c", RUNS, token=f"pc-{name}", workdir=str(tmp_path))
        launcher = lab.launcher()
        launcher.scope = scope
        handle = await launcher.submit(spec)
        await wait_until((Path(spec.run_dir) / "claim" / "pid").exists)
        return spec, handle.job_id

    return start


def living(engine: FakeEngine) -> set[str]:
    return {one.name for one in engine.containers.values() if one.status == "running"}


async def test_only_the_container_of_an_attempt_that_is_over_on_record_is_ended(lab, fake_docker, started, on_record):
    over, over_id = await started("over")
    await started("open")
    others = [await started("foreign", Scope("tta", "L2")), await started("rival", Scope("tto", "L1"))]
    others += [await started("nobodys", None), await started("other-job"), await started("other-dir")]
    on_record |= {spec.token: Closed(spec.run_dir, container) for spec, container in others[:3]}
    on_record["pc-other-job"] = Closed(others[3][0].run_dir, "f" * 64)
    on_record["pc-other-dir"] = Closed("/elsewhere", others[4][1])
    on_record[over.token] = Closed(over.run_dir, over_id)
    alive = living(fake_docker)
    assert len(alive) == 7
    fresh = lab.launcher()
    fresh.scope = OURS
    await fresh.look()
    await wait_until(lambda: "pc-over" not in living(fake_docker))
    assert living(fake_docker) == alive - {"pc-over"}
    assert json.loads((Path(over.run_dir) / "status.json").read_text())["exit_code"] == 143
    fake_docker.end_all()


async def test_one_whose_job_is_not_on_record_is_known_by_the_note_in_its_run_dir(lab, fake_docker, started, on_record):
    one, _ = await started("one")
    two, _ = await started("two")
    (Path(two.run_dir) / "container.json").unlink()
    on_record |= {spec.token: Closed(spec.run_dir, "") for spec in (one, two)}
    launcher = lab.launcher()
    assert closed.end_closed(launcher.engine, OURS, ()) == [one.token]
    assert living(fake_docker) == {"pc-two"}
    fake_docker.end_all()


async def test_what_is_followed_and_what_no_ledger_speaks_of_is_left_alone(lab, fake_docker, started, on_record):
    spec, container = await started("one")
    on_record[spec.token] = Closed(spec.run_dir, container)
    engine = lab.launcher().engine
    assert closed.end_closed(engine, OURS, {spec.token}) == []
    assert closed.end_closed(engine, Scope("tta", "L1"), ()) == []
    fake_docker.stop()
    assert closed.end_closed(engine, OURS, ()) == []
    fake_docker.start()
    assert living(fake_docker) == {"pc-one"}
    assert runs(lab.folder)
    fake_docker.end_all()
