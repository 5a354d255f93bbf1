"""The gate: a person sees the synthesis and decides, in the Prefect UI, the terminal or Python."""

from typing import Any, Literal
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from pydantic import Field

from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import gates
from prefect_campaign.ledger.gates import ANSWERS, HOLD, Question
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused

FOR_EVER = 10 * 365 * 24 * 3600
"""Seconds. Prefect wants a number, and fails the run when it is over."""


class GateForm(RunInput):
    """The form in the UI's Resume dialog. Every default together means: hold, and ask again."""

    answer: Literal["HOLD", "CONTINUE", "PIVOT", "KILL"] = Field(
        default="HOLD",
        description="CONTINUE runs the full phase, PIVOT changes the plan, KILL ends this round. HOLD asks again.",
        json_schema_extra={"position": 0},
    )
    approver: str = Field(
        default="", description="Your name; needed for every answer but HOLD.", json_schema_extra={"position": 1}
    )
    reason: str = Field(default="", description="Why; kept with the answer.", json_schema_extra={"position": 2})
    drop_experiments: list[str] = Field(
        default_factory=list, description="exp_ids that the full phase leaves out.", json_schema_extra={"position": 3}
    )
    budget_hours: float | None = Field(
        default=None, description="Device hours that may be used in all.", json_schema_extra={"position": 4}
    )
    changes: list[str] = Field(
        default_factory=list,
        description="For PIVOT: parameters to change, as name=value; empty: the spec will be edited by hand.",
        json_schema_extra={"position": 5},
    )


async def ask_until_answered(setting: Setting, *, shown: str, cost: dict[str, Any]) -> Question:
    """Put the question and wait, for ever if need be, until it has an answer other than hold.

    In a deployment the run suspends: it holds no process, and starts from the top when it is resumed. In a plain
    process it pauses. An answer that is in the ledger already, whoever gave it, is taken as it is.
    """
    while True:
        asked = _ask(setting, shown, cost)
        if asked.answer in ANSWERS:
            return asked
        await _bind(setting, asked)
        crash_point("gate_asked")
        form = GateForm.with_initial_data(description=shown)
        if runtime.deployment.id:
            # Typed for a fixed timeout, but None is Prefect's own word for: never.
            received = await asuspend_flow_run(wait_for_input=form, key=asked.key, timeout=None)
        else:
            received = await apause_flow_run(wait_for_input=form, key=asked.key, timeout=FOR_EVER, poll_interval=1)
        _record(setting, asked, received)
        crash_point("gate_answered")


def parse_changes(changes: list[str]) -> dict[str, Any]:
    """``["epochs=20"]`` -> ``{"epochs": 20}``; values are read as YAML scalars.

    Raises:
        Refused: an entry is not ``name=value``.
    """
    import yaml

    found: dict[str, Any] = {}
    for entry in changes:
        name, sign, value = entry.partition("=")
        if not sign or not name.strip().isidentifier():
            raise Refused(f"changes: {entry!r} is not of the form name=value")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[name.strip()] = value
        if not isinstance(found[name.strip()], str | int | float | bool):
            raise Refused(f"changes: {entry!r}: the value must be one number, text or true/false")
    return found


def _ask(setting: Setting, shown: str, cost: dict[str, Any]) -> Question:
    with setting.ledger.write() as connection:
        return gates.ask(
            connection,
            setting.row.id,
            plan_hash=setting.plan.plan_hash,
            iteration=setting.row.iteration,
            shown=shown,
            cost=cost,
            now=setting.ledger.clock(),
        )


async def _bind(setting: Setting, asked: Question) -> None:
    """Remember that this flow run waits, and retire one whose process is gone and that can only mislead."""
    context = FlowRunContext.get()
    run_id = str(context.flow_run.id) if context and context.flow_run else None
    waiter = gates.SUSPENDED if runtime.deployment.id else own_identity()
    with setting.ledger.write() as connection:
        before = gates.waiting(connection, asked.id)
        gates.bind_waiting(connection, asked.id, gates.Waiting(run_id, PREFECT_API_URL.value(), waiter))
    if before.flow_run_id and before.flow_run_id != run_id:
        await _retire(before.flow_run_id, "a later run took the gate over")


async def retire_dead_waiter(setting: Setting) -> None:
    """Close the paused flow run of an open question whose process is gone, before somebody resumes it in vain."""
    with setting.ledger.read() as connection:
        asked = gates.question(connection, setting.row.id, setting.plan.plan_hash)
        who = gates.waiting(connection, asked.id) if asked and asked.answer is None else None
    if who is None or who.flow_run_id is None or who.waiter in (None, gates.SUSPENDED):
        return
    if not identity_alive(who.waiter):
        name = setting.row.name
        await _retire(who.flow_run_id, f"answer by `campaign approve {name}`, then `campaign resume {name}`")


async def _retire(run_id: str, why: str) -> None:
    """Close a paused flow run that nothing can wake any more."""
    try:
        async with get_client() as client:
            old = await client.read_flow_run(UUID(run_id))
            if old.state and not old.state.is_final():
                await client.set_flow_run_state(old.id, Crashed(message=f"Its process is gone: {why}."), force=True)
    except (ObjectNotFound, PrefectException):
        return  # another server's run: nothing to retire here


def _record(setting: Setting, asked: Question, received: GateForm | None) -> None:
    """Write down what the form brought; whatever does not validate is a hold with the reason on record."""
    with setting.ledger.write() as connection:
        latest = gates.question(connection, setting.row.id, asked.plan_hash)
        if latest is None or latest.id != asked.id or latest.answer is not None:
            return  # answered by another way meanwhile; late and double answers change nothing
        now = setting.ledger.clock()
        if received is None or received.answer == HOLD:
            why = received.reason if received else "resumed without an answer"
            gates.answer(connection, asked, choice=HOLD, by="", reason=why, channel="ui", now=now)
            return
        try:
            changes = parse_changes(received.changes)
            gates.answer(
                connection,
                asked,
                choice=received.answer,
                by=received.approver,
                reason=received.reason,
                channel="ui",
                now=now,
                drop=received.drop_experiments,
                changes=changes,
                budget_hours=received.budget_hours,
            )
        except Refused as problem:
            gates.answer(
                connection, asked, choice=HOLD, by="", reason=f"not accepted: {problem}", channel="ui", now=now
            )
