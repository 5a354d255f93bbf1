"""Answering the gate from the command line or Python: first the ledger, then the flow run that waits."""

import asyncio
import getpass
import time
from uuid import UUID

from prefect_campaign.engine.process import identity_alive
from prefect_campaign.ledger import campaigns, gates, queries
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.states import CampaignStatus

WAKE_SECONDS = 20.0


def answer_gate(
    name: str, choice: str, *, by: str, reason: str, drop: list[str] | None = None, changes: list[str] | None = None
) -> str:
    """Record an answer, bound to the plan that was shown, and wake the flow run that waits for it.

    Args:
        name: the campaign.
        choice: CONTINUE, PIVOT or KILL.
        by: who decides; default: the logged-in user.
        reason: why.
        drop: exp_ids that the full phase leaves out.
        changes: for PIVOT, ``name=value``.

    Returns:
        What was done, for people.

    Raises:
        Refused: nothing is asked, it is answered already, or the answer does not validate.
    """
    home = Home.locate()
    with Reader(home.ledger_url) as reader:
        queries.campaign(reader, name)
    ledger = Ledger.open(home)
    with ledger.read() as connection:
        row = campaigns.latest_round(connection, name)
        asked = gates.question(connection, row.id, row.plan_hash) if row else None
    if row is None or asked is None or CampaignStatus(row.status).ended:
        raise Refused(f"campaign {name!r}: its gate asks nothing now; see `campaign status {name}`")
    if choice not in gates.ANSWERS:
        raise Refused(f"answer {choice!r}: choose one of {', '.join(gates.ANSWERS)}")
    if asked.answer is not None and asked.answer != gates.HOLD:
        raise Refused(f"campaign {name!r}: plan {asked.plan_hash} was answered {asked.answer} by {asked.by} already")
    from prefect_campaign.tasks.gate import parse_changes

    who = by or getpass.getuser()
    with ledger.write() as connection:
        taken = gates.answer(
            connection,
            asked,
            choice=choice,
            by=who,
            reason=reason,
            channel="cli",
            now=ledger.clock(),
            drop=drop,
            changes=parse_changes(changes or []),
        )
        waiting = gates.waiting(connection, asked.id)
    if not taken:
        raise Refused(f"campaign {name!r}: plan {asked.plan_hash} was answered by somebody else meanwhile")
    done = f"{choice} by {who} recorded for plan {asked.plan_hash}"
    gone = waiting.waiter is None or (waiting.waiter != gates.SUSPENDED and not identity_alive(waiting.waiter))
    if gone or waiting.flow_run_id is None:
        return f"{done}; no flow run waits for it: go on with `campaign resume {name}`"
    woken = asyncio.run(_wake(waiting.flow_run_id, waiting.api_url, choice, who, reason))
    return done if woken else f"{done}; its flow run does not wait any more: `campaign resume {name}`"


async def _wake(run_id: str, api_url: str | None, choice: str, by: str, reason: str) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    override = {PREFECT_API_URL: api_url} if api_url else {}
    deadline = time.monotonic() + WAKE_SECONDS
    try:
        with temporary_settings(updates=override):
            async with get_client() as client:
                while time.monotonic() < deadline:
                    run = await client.read_flow_run(UUID(run_id))
                    if run.state is None or run.state.is_final():
                        return False
                    if run.state.is_paused():
                        form = {"answer": choice, "approver": by, "reason": reason}
                        reply = await client.resume_flow_run(run.id, run_input=form)
                        return str(reply.status.value) == "ACCEPT"
                    # asked, but not yet paused: the question is durable before the pause is
                    await asyncio.sleep(0.3)
    except (ObjectNotFound, OSError):
        return False
    except Exception as error:
        # The answer is on record; whoever resumes finds it. httpx has no common base with OSError.
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore"):
            return False
        raise
    return False
