"""Flow runs whose process is gone: closed, unless they wait, or start again, or their server does not answer."""

import time
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from unit.gate_lab import RUN, Api

from prefect_campaign.engine.process import own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import flow_runs
from prefect_campaign.ledger.flow_runs import NotedRun
from prefect_campaign.tasks.lost_runs import close_lost_runs

HOUR = 3600.0


def noted(setting: Setting, process: str | None = None, since: float | None = None) -> None:
    """Have a run on record; by default its process is gone, and was started an hour from now."""
    gone = own_identity().rsplit(":", 2)[0] + ":999999999:x.1"
    run = NotedRun(RUN, process or gone, since if since is not None else time.time() + HOUR)
    with setting.ledger.write() as connection:
        flow_runs.note(connection, setting.row.id, run)


async def left_after_closing(setting: Setting, api: Api) -> int:
    """How many runs are still on record afterwards."""
    with temporary_settings(updates={PREFECT_API_URL: api.url}):
        await close_lost_runs(setting)
    with setting.ledger.read() as connection:
        return len(flow_runs.noted(connection, setting.row.id))


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELLING"])
async def test_a_run_without_its_process_is_closed(setting: Setting, serve: Any, state: str) -> None:
    api: Api = serve(state)
    noted(setting)
    assert await left_after_closing(setting, api) == 0
    assert api.closed == ["CRASHED"]


@pytest.mark.parametrize("state", ["COMPLETED", "CRASHED", "MISSING"])
async def test_a_run_that_is_over_is_only_forgotten(setting: Setting, serve: Any, state: str) -> None:
    api: Api = serve(state)
    noted(setting)
    assert await left_after_closing(setting, api) == 0
    assert api.closed == []


@pytest.mark.parametrize("state", ["PAUSED", "SCHEDULED"])
async def test_a_run_that_waits_is_left_alone(setting: Setting, serve: Any, state: str) -> None:
    api: Api = serve(state)
    noted(setting)
    assert await left_after_closing(setting, api) == 1
    assert api.closed == []


async def test_a_run_that_was_started_again_since_is_left_alone(setting: Setting, serve: Any) -> None:
    api: Api = serve("RUNNING")
    noted(setting, since=time.time() - HOUR)
    assert await left_after_closing(setting, api) == 1
    assert api.closed == []


async def test_a_run_whose_process_lives_is_left_alone(setting: Setting, serve: Any) -> None:
    api: Api = serve("RUNNING")
    noted(setting, process=own_identity())
    assert await left_after_closing(setting, api) == 1
    assert api.closed == []


async def test_a_server_that_does_not_answer_is_asked_again_next_time(setting: Setting, serve: Any) -> None:
    api: Api = serve("RUNNING", broken=True)
    noted(setting)
    assert await left_after_closing(setting, api) == 1
