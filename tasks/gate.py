"""The gate: a person sees the synthesis and decides, in the Prefect UI, the terminal or Python."""

import asyncio
from functools import partial
from typing import Any, Literal

from prefect import runtime
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import RunInput
from pydantic import Field, create_model

from prefect_campaign.engine.pivot import changed_campaign, parse_changes
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import campaigns, gates
from prefect_campaign.ledger.gates import ANSWERS, HOLD, Question, Waiting
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.states import CampaignStatus
from prefect_campaign.tasks.waiting import UNREACHED, bind, close_run, tend_until_over

FOR_EVER = 10 * 365 * 24 * 3600
"""Seconds. Prefect wants a number, and fails the run when it is over."""


Answer = Literal["HOLD", "CONTINUE", "PIVOT", "KILL"]


class GateForm(RunInput):
    """The form in the UI's Resume dialog. Every default together means: hold, and ask again."""

    answer: Answer = Field(
        default="HOLD",
        # Prefect's select box takes a click on its words twice, and so stays shut.
        description="CONTINUE runs the full phase, PIVOT changes the plan, KILL ends this round. HOLD asks again. "
        "Open the list by the arrow at its right end.",
        json_schema_extra={"position": 0},
    )
    approver: str = Field(
        default="", description="Your name; needed for every answer but HOLD.", json_schema_extra={"position": 1}
    )
    reason: str = Field(default="", description="Why; kept with the answer.", json_schema_extra={"position": 2})
    drop_experiments: list[str] = Field(
        default_factory=list, description="exp_ids that the full phase leaves out.", json_schema_extra={"position": 3}
    )
    budget_hours: float = Field(
        default=0.0,
        description="Device hours that may be used in all; 0: as the spec says.",
        json_schema_extra={"position": 4},
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

    Raises:
        Driven: a living process waits for the answer already.
        Refused: another plan or round took the place of this one, or the waiting run was cancelled.
        Transient: Prefect's server is gone; the question stays open.
    """
    while True:
        asked, before = _ask(setting, shown, cost)
        if asked.answer in ANSWERS:
            return asked
        if before:
            await close_run(before, "a later run took the gate over")
        crash_point("gate_asked")
        form = _form(shown)
        try:
            if runtime.deployment.id:
                # Typed for a fixed timeout, but None is Prefect's own word for: never.
                received = await asuspend_flow_run(wait_for_input=form, key=asked.key, timeout=None)
            else:
                received = await _paused(setting, asked, form)
        except UNREACHED as error:
            name = setting.row.name
            raise Transient(
                f"campaign {name!r}: the Prefect server does not answer ({type(error).__name__}); the question stays "
                f"open: go on with `campaign resume {name}`"
            ) from error
        _record(setting, asked, received)
        crash_point("gate_answered")


async def _paused(setting: Setting, asked: Question, form: type[GateForm]) -> GateForm:
    """Pause until the form comes; meanwhile see that an answer in the ledger, or a cancellation, ends the pause.

    Raises:
        Refused: there is nothing to wait for any more.
    """
    pausing = asyncio.ensure_future(
        apause_flow_run(wait_for_input=form, key=asked.key, timeout=FOR_EVER, poll_interval=1)
    )
    tending = asyncio.ensure_future(tend_until_over(setting))
    try:
        await asyncio.wait({pausing, tending}, return_when=asyncio.FIRST_COMPLETED)
        if pausing.done():
            return pausing.result()
        raise Refused(f"campaign {setting.row.name!r}: {tending.result()}")
    finally:
        pausing.cancel()
        tending.cancel()


def _form(shown: str) -> type[GateForm]:
    """The form with the question above its first field.

    Not by Prefect's own description above the form: beside a form of this length its UI leaves that no height at all.
    In the description of a field the UI makes blanks of all line feeds, but not of carriage returns.
    """
    told = f"{shown}\n\n---\n\n{GateForm.model_fields['answer'].description}".replace("\n", "\r")
    field = Field(default=HOLD, title="Your answer", description=told, json_schema_extra={"position": 0})
    return create_model(GateForm.__name__, __base__=GateForm, answer=(Answer, field))


def _ask(setting: Setting, shown: str, cost: dict[str, Any]) -> tuple[Question, Waiting | None]:
    """The question, with this run on record as the one that waits; and the run that waited before, if there is one.

    Raises:
        Driven: a living process waits for the answer already.
    """
    now = setting.ledger.clock()
    with setting.ledger.write() as connection:
        asked = gates.ask(
            connection,
            setting.row.id,
            plan_hash=setting.plan.plan_hash,
            iteration=setting.row.iteration,
            shown=shown,
            cost=cost,
            now=now,
        )
        if asked.answer in ANSWERS:
            return asked, None
        why = f"waiting for an answer on plan {asked.plan_hash}"
        campaigns.set_status(
            connection, setting.row.id, now=now, who="campaign", why=why, status=CampaignStatus.AT_GATE
        )
        return asked, bind(connection, asked, setting.row.name)


def _record(setting: Setting, asked: Question, received: GateForm | None) -> None:
    """Write down what the form brought; whatever does not validate is a hold with the reason on record.

    Raises:
        Refused: the campaign has another plan by now; this run has nothing to wait for any more.
    """
    with setting.ledger.write() as connection:
        row = campaigns.latest_round(connection, setting.row.name)
        if row is None or (row.id, row.plan_hash) != (setting.row.id, asked.plan_hash):
            raise Refused(
                f"campaign {setting.row.name!r}: plan {asked.plan_hash} is not asked about any more; another plan or "
                "round took its place"
            )
        latest = gates.question(connection, setting.row.id, asked.plan_hash)
        if latest is None or latest.id != asked.id or latest.answer is not None:
            return  # answered by another way meanwhile; late and double answers change nothing
        record = partial(gates.answer, connection, asked, channel="ui", now=setting.ledger.clock())
        if received is None or received.answer == HOLD:
            record(choice=HOLD, by="", reason=received.reason if received else "resumed without an answer")
            return
        try:
            changes = parse_changes(received.changes)
            if changes:
                changed_campaign(setting.campaign, changes)
            record(
                choice=received.answer,
                by=received.approver,
                reason=received.reason,
                drop=received.drop_experiments,
                changes=changes,
                budget_hours=received.budget_hours or None,
            )
        except Refused as problem:
            record(choice=HOLD, by="", reason=f"not accepted: {problem}")
