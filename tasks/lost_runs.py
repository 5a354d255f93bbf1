"""Flow runs whose process was killed: without this they would stay Running in Prefect's UI for ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import flow_runs
from prefect_campaign.ledger.flow_runs import NotedRun
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.tasks.waiting import UNREACHED

AT_WORK = [StateType.RUNNING, StateType.PENDING]
GONE = "Its process is gone; what it ran is in the ledger, and whoever goes on adopts it."


@asynccontextmanager
async def noted_run(setting: Setting) -> AsyncIterator[None]:
    """Have this flow run on record while it works on the campaign, and clear up after those that were killed."""
    await close_lost_runs(setting)
    run_id = runtime.flow_run.id
    if run_id is None:
        yield
        return
    with setting.ledger.write() as connection:
        run = NotedRun(run_id, own_identity(), setting.ledger.clock())
        flow_runs.note(connection, setting.row.id, run)
    try:
        yield
    finally:
        # What stays on record because the ledger cannot be written is found to be over later.
        with suppress(CampaignError), setting.ledger.write() as connection:
            flow_runs.forget(connection, run_id)


async def close_lost_runs(setting: Setting) -> None:
    """Close the campaign's flow runs whose process is gone, with all that ran inside them."""
    with setting.ledger.read() as connection:
        lost = [r for r in flow_runs.noted(connection, setting.row.id) if not identity_alive(r.process)]
    for run in lost:
        with suppress(*UNREACHED):  # the next who looks does it
            async with get_client() as client:
                over = await _closed(client, run)
            if over:
                with setting.ledger.write() as connection:
                    flow_runs.forget(connection, run.flow_run_id)


async def _closed(client: PrefectClient, run: NotedRun) -> bool:
    """Close one; False if it waits at its gate or is being started again, and must be left alone."""
    run_id = UUID(run.flow_run_id)
    try:
        state = (await client.read_flow_run(run_id)).state
    except ObjectNotFound:  # deleted, or of another server
        return True
    ours = str(run_id) == runtime.flow_run.id
    if state and not state.is_final() and not ours:
        if state.is_paused() or state.is_scheduled() or state.timestamp.timestamp() > run.since:
            return False
        await client.set_flow_run_state(run_id, Crashed(message=GONE), force=True)
    await _close_inside(client, run_id)
    return True


async def _close_inside(client: PrefectClient, run_id: UUID) -> None:
    inside = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    for child in await client.read_flow_runs(flow_run_filter=inside):
        await _close_inside(client, child.id)
    busy = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=AT_WORK)))
    its_own = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for one in await client.read_task_runs(flow_run_filter=its_own, task_run_filter=busy):  # at most one page is busy
        await client.set_task_run_state(one.id, Crashed(message=GONE), force=True)
    inside.state = FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))
    for child in await client.read_flow_runs(flow_run_filter=inside):
        await client.set_flow_run_state(child.id, Crashed(message=GONE), force=True)
