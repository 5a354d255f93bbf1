"""How long experiments took is told to placement for the next ones: their leases say when they will end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab, campaign, interrupted, until
from driver import Driver, gpus
from sqlalchemy import update

from prefect_campaign import Sweep
from prefect_campaign.ledger import tables as t

ONE_AT_A_TIME = """until [ -e "go-$CAMPAIGN_EXP_ID" ] || [ -e go ]; do sleep 0.02; done\n"""


def seeds(folder: Path, **changes: Any) -> Any:
    """Experiments that do the same work, each until it may end."""
    policy = {"max_parallel": 1}
    sweep = changes.pop("sweep", Sweep.grid(x=[1], seed=range(3)))
    resources = {"gpus": 1, **changes.pop("resources", {})}
    return campaign(folder, ONE_AT_A_TIME + REPORT, sweep=sweep, policy=policy, resources=resources, **changes)


def let_end(folder: Path, lab: Lab) -> None:
    """The one that runs may end."""
    (lease,) = lab.rows(t.leases)
    (folder / f"go-{attempt_of(lab, lease)['exp_id']}").touch()


def attempt_of(lab: Lab, lease: dict[str, Any]) -> dict[str, Any]:
    return next(a for a in lab.rows(t.attempts) if a["token"] == lease["token"])


def running(lab: Lab, number: int) -> bool:
    """Whether the attempt of that number, in order of their intents, is the one that runs."""
    attempts = lab.rows(t.attempts)
    return len(attempts) == number and attempts[-1]["state"] == "running"


async def test_the_next_one_is_expected_to_take_as_long_as_those_before(
    tmp_path: Path, home: Any, driver: Driver
) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: running(lab, 1))
        assert [lease["until"] for lease in lab.rows(t.leases)] == [None]
        let_end(tmp_path, lab)
        await until(lambda: running(lab, 2))
        (lease,) = lab.rows(t.leases)
        assert lease["until"] > lease["taken_at"]
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
    assert lab.states == ["done"] * 3
    lab.settled()


async def test_what_is_on_record_is_known_to_the_next_dispatcher(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, sweep=Sweep.grid(x=[1], seed=range(1))))
    (tmp_path / "go").touch()
    await lab.run()
    with lab.setting.ledger.write() as connection:  # it took an hour
        connection.execute(update(t.attempts).values(started_at=t.attempts.c.ended_at - 3600))
    (tmp_path / "go").unlink()
    lab = Lab(seeds(tmp_path))
    await interrupted(lab, lambda: len(lab.rows(t.leases)) == 1)
    (lease,) = lab.rows(t.leases)
    attempt = attempt_of(lab, lease)
    assert lease["until"] - attempt["intent_at"] == pytest.approx(3600, abs=60)
    assert attempt["spec"]["wall_minutes"] == 2 * 60  # 1.5 x 1.2 of an hour, in whole ones
    (tmp_path / "go").touch()
    await lab.run()
    assert set(lab.states) == {"done"}


async def test_the_users_own_number_wins(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = Lab(seeds(tmp_path, resources={"expected_minutes": 30}))
    async with lab.open() as dispatcher:
        run = asyncio.create_task(dispatcher.run())
        await until(lambda: running(lab, 1))
        let_end(tmp_path, lab)
        await until(lambda: running(lab, 2))
        (lease,) = lab.rows(t.leases)
        assert lease["until"] - attempt_of(lab, lease)["intent_at"] == pytest.approx(1800, abs=60)
        (tmp_path / "go").touch()
        await asyncio.wait_for(run, 60)
