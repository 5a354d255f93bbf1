"""Several workers may share one ledger: each looks after what was begun on its machine, in its home."""

from dataclasses import replace
from pathlib import Path

import pytest
from contract.engine.lab import REPORT, Lab, campaign

from prefect_campaign.engine.rounds import elsewhere
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.location import Home


async def test_what_was_begun_here_is_looked_after_here(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, REPORT))
    assert not elsewhere(lab.setting)
    await lab.run()
    assert not elsewhere(lab.setting)


async def test_another_home_leaves_it_alone(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, REPORT)).run()
    other = replace(lab.setting, home=Home(tmp_path / "other", lab.setting.home.ledger_url))
    assert "run dirs" in elsewhere(other)


@pytest.mark.parametrize(("launcher", "left"), [("local", True), ("docker", True), ("ssh", False), ("slurm", False)])
async def test_another_machine_leaves_alone_what_only_that_one_can_see(tmp_path: Path, launcher, left) -> None:
    lab = await Lab(campaign(tmp_path, REPORT)).run()
    with lab.setting.ledger.write() as connection:
        connection.execute(t.attempts.update().values(host="another", launcher=launcher))
    assert bool(elsewhere(lab.setting)) is left
