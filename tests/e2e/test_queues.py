"""A campaign on two queues from Prefect blocks to results: a fake PBS, and a vendor queue described by its commands."""

import csv
from pathlib import Path

import pytest
from acme_rig import DESCRIPTION, Acme
from e2e.world import World
from pbs_rig import FakePbs

SAVE = """
from prefect_campaign.blocks import CommandQueue, PbsCluster
PbsCluster(name="lab", queue="workq", max_jobs=2).save("lab", overwrite=True)
CommandQueue(name="acme", max_jobs=2, **{description!r}).save("acme", overwrite=True)
"""


@pytest.fixture
def queues(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[FakePbs, Acme]:
    pbs, acme = FakePbs(tmp_path / "pbs"), Acme(tmp_path / "acme")
    monkeypatch.setenv("PATH", f"{pbs.bin}:{acme.bin}", prepend=":")
    world.python(SAVE.format(description=DESCRIPTION))
    return pbs, acme


def test_a_campaign_on_two_queues(world: World, queues: tuple[FakePbs, Acme]) -> None:
    pbs, acme = queues
    spec = world.spec(
        sweep={"grid": {"method": [1, 2], "seed": [0, 1]}},
        launcher=["pbs/lab", "command/acme"],
        resources={"expected_minutes": 1},
    )
    done = world.campaign("run", spec, "--approve", "CONTINUE", "--by", "ann")
    assert "campaign tiny: completed" in done.out
    assert world.states("full") == ["done"] * 4
    results = world.home / "campaigns" / "tiny" / "results" / "all_results.csv"
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert {row["host"] for row in rows} == {"lab", "acme"}
    assert {job["job_state"] for job in pbs.jobs().values()} == {"F"}
    assert {job["Exit_status"] for job in pbs.jobs().values()} == {0}
    assert len(pbs.jobs()) + len(acme.tasks()) == len(world.rows("SELECT * FROM attempts"))
    assert world.rows("SELECT * FROM leases") == []


def test_a_block_that_cannot_work_is_told_when_it_is_made(world: World) -> None:
    bad = {**DESCRIPTION, "name": "acme", "job_pattern": "(?P<id>"}
    code = f"from prefect_campaign.blocks import CommandQueue\nCommandQueue(**{bad!r})"
    done = world.run("python", "-c", code)
    assert done.code == 1
    assert "job_pattern: " in done.err
