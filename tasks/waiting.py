"""Flow runs that wait at a gate: who waits, waking them, and closing those that nothing can wake any more."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from sqlalchemy import Connection

from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.ledger import gates
from prefect_campaign.ledger.gates import ANSWERS, Question, Waiting
from prefect_campaign.model.errors import Driven, Transient

WAKE_SECONDS = 20.0
"""How long a run that has asked may take until it pauses: the question is durable before the pause is."""
WAKE_AGAIN_SECONDS = 0.5
TEND_SECONDS = 3.0
UNREACHED = (PrefectException, httpx.HTTPError, OSError)
"""The run is gone, or its server does not answer; the ledger has all that matters."""


def bind(connection: Connection, asked: Question, name: str) -> Waiting | None:
    """Remember that this flow run waits; returns the run that waited before and can only mislead now, if any.

    Raises:
        Driven: a living process waits for the answer already.
    """
    context = FlowRunContext.get()
    run_id = str(context.flow_run.id) if context and context.flow_run else None
    waiter = gates.SUSPENDED if runtime.deployment.id else own_identity()
    before = gates.waiting(connection, asked.id)
    if _lives(before) and before.waiter != waiter:
        raise Driven(
            f"campaign {name!r}: another process waits at its gate ({before.waiter}); "
            f"answer by `campaign approve {name}`"
        )
    gates.bind_waiting(connection, asked.id, Waiting(run_id, PREFECT_API_URL.value(), waiter))
    return before if before.flow_run_id and before.flow_run_id != run_id else None


async def tend_gate(setting: Setting) -> None:
    """Wake the run whose answer is on record, and close a paused one whose process is gone, before it misleads."""
    with setting.ledger.read() as connection:
        asked = gates.question(connection, setting.row.id, setting.row.plan_hash)
        who = gates.waiting(connection, asked.id) if asked else None
    if asked is None or who is None or who.flow_run_id is None:
        return
    if not can_wake(who):
        name = setting.row.name
        await close_run(who, f"answer by `campaign approve {name}`, then `campaign resume {name}`")
    elif asked.answer in ANSWERS:
        await wake(who, asked, patience=0.0)


async def tend_until_over(setting: Setting) -> str:
    """Tend the gate at which this run is paused; returns why there is nothing to wait for any more."""
    context = FlowRunContext.get()
    while context and context.flow_run:
        await asyncio.sleep(TEND_SECONDS)
        with suppress(*UNREACHED, Transient):
            async with get_client() as client:
                state = (await client.read_flow_run(context.flow_run.id)).state
            if state and (state.is_final() or state.is_cancelling()):
                again = f"go on with `campaign resume {setting.row.name}`"
                return f"its flow run was cancelled at the gate; the question stays open: {again}"
            row = open_setting(setting.row.name).row
            if (row.id, row.plan_hash) != (setting.row.id, setting.row.plan_hash):
                return f"plan {setting.row.plan_hash} is not asked about any more; another plan or round took its place"
            await tend_gate(setting)
    return "it is not run by Prefect"


def can_wake(who: Waiting) -> bool:
    """Whether a flow run waits that an answer can reach: suspended, or paused in a process that lives."""
    return who.flow_run_id is not None and (who.waiter == gates.SUSPENDED or _lives(who))


async def wake(
    who: Waiting, asked: Question, patience: float | None = None, gone_on: Callable[[], bool] = lambda: False
) -> bool:
    """Resume the flow run that waits, once the answer is in the ledger; False if it does not wait any more.

    Args:
        who: who waits.
        asked: the question with its answer; the run reads it from the ledger, the form only shows it.
        patience: seconds to wait for a run that has asked but not paused yet; default: `WAKE_SECONDS`.
        gone_on: whether the run has found the answer by itself.
    """
    if who.flow_run_id is None:
        return False
    run_id = UUID(who.flow_run_id)
    deadline = time.monotonic() + (WAKE_SECONDS if patience is None else patience)
    while True:
        with suppress(*UNREACHED), temporary_settings(updates={PREFECT_API_URL: who.api_url} if who.api_url else {}):
            async with get_client() as client:
                state = (await client.read_flow_run(run_id)).state
                if gone_on():
                    return True
                if state is None or state.is_final():
                    return False
                if state.is_paused():
                    form = {"answer": asked.answer, "approver": asked.by, "reason": asked.reason}
                    reply = await client.resume_flow_run(run_id, run_input=form)
                    # Rejected while the run has paused but its form is not stored yet.
                    if str(reply.status.value) == "ACCEPT":
                        return True
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(WAKE_AGAIN_SECONDS)


async def close_run(who: Waiting, why: str) -> None:
    """Close a waiting flow run that nothing can wake any more."""
    if who.flow_run_id is None:
        return
    with suppress(*UNREACHED):  # another server's run: nothing to close here
        async with get_client() as client:
            old = await client.read_flow_run(UUID(who.flow_run_id))
            if old.state and old.state.is_paused():
                await client.set_flow_run_state(old.id, Crashed(message=f"Its process is gone: {why}."), force=True)


def _lives(who: Waiting) -> bool:
    return who.waiter not in (None, gates.SUSPENDED) and identity_alive(str(who.waiter))
