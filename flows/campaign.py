"""The whole story of a campaign: pilot stages, synthesis, gate, full phase, results."""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, runtime
from pydantic import Field

from prefect_campaign.decide.ending import ending, held_up
from prefect_campaign.decide.iterate import after_pivot
from prefect_campaign.decide.pilot import PilotDecision, decide_pilot
from prefect_campaign.decide.verdicts import StageVerdict
from prefect_campaign.engine.pivot import changed_campaign
from prefect_campaign.engine.rounds import has_open_attempts
from prefect_campaign.engine.setting import (
    Setting,
    outcome_of,
    refuse_if_awaited,
    refuse_if_driven,
    register,
    setting_of_run,
)
from prefect_campaign.flows.monitor import follow_to_the_end
from prefect_campaign.flows.review import cost_of, review
from prefect_campaign.flows.stage import judge, over, stage
from prefect_campaign.judge.review import to_markdown
from prefect_campaign.ledger.gates import Question
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Driven, Refused
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import FULL, PILOT
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import CampaignStatus
from prefect_campaign.results.rollback import write_rollback
from prefect_campaign.results.synthesis import gate_markdown, synthesis_markdown, write_synthesis
from prefect_campaign.tasks.gate import ask_until_answered
from prefect_campaign.tasks.lost_runs import noted_run
from prefect_campaign.tasks.machines import launcher_of
from prefect_campaign.tasks.publish import publish_results, publish_text
from prefect_campaign.tasks.steps import end, enter_full
from prefect_campaign.tasks.tree import tree_for_full, warn_of_changes

Spec = Annotated[str | Campaign, Field(description="Path of a spec (YAML) on the worker, or the spec itself.")]

PATIENCE_SECONDS = 20


def _run_name() -> str:
    spec = runtime.flow_run.parameters.get("spec")
    try:
        name = load_campaign(spec).name
    except Refused:
        name = Path(str(spec)).stem if isinstance(spec, str) else "campaign"
    return f"{name}: {runtime.flow_run.parameters.get('phase', PILOT)}"


@flow(name="campaign", flow_run_name=_run_name, persist_result=False)
async def campaign(spec: Spec, phase: Literal["pilot", "full"] = "pilot", new_round: bool = False) -> dict[str, Any]:
    """Run a campaign from wherever it is to its end, or to the next decision that a person must take.

    Whatever is in the ledger already is not done again, so the flow may be repeated, resumed and killed at will.

    Args:
        spec: path of a spec, or the spec itself.
        phase: ``pilot`` starts with the pilot stages; ``full`` asks for approval unless this very plan has it.
        new_round: start over if the campaign has ended.

    Returns:
        What the campaign has come to; see `outcome_of`.
    """
    run_id = runtime.flow_run.id

    if run_id is None or setting_of_run(run_id) is None:
        (await launcher_of(load_campaign(spec))).close()  # before anything is made: are its machines known?

    def take() -> Setting:
        # A run that was suspended starts from the top again, and its spec may have been edited or pivoted meanwhile.
        setting = (setting_of_run(run_id) if run_id else None) or register(spec, new_round=new_round)
        refuse_if_driven(setting.row, setting.ledger.clock())
        return setting

    setting = await _patiently(take)
    with setting.ledger.read() as connection:
        refuse_if_awaited(connection, setting.row)
    async with noted_run(setting):
        return await _drive(setting, phase)


async def _drive(setting: Setting, phase: str = PILOT) -> dict[str, Any]:
    if CampaignStatus(setting.row.status).ended:
        return outcome_of(setting.row.name)
    setting.change(status=CampaignStatus.OPEN, reason="")
    if phase != FULL:
        warn_of_changes(await setting.tree())
    verdicts = [] if phase == FULL else await _pilot(setting)
    last = setting.plan.stages[len(verdicts) - 1].name if verdicts else ""
    missing = next((v.metric_missing for v in verdicts if v.metric_missing), None)
    why = missing.message if missing else held_up(last, setting.views(last)) if verdicts else ""
    if why:
        todo = f"mend it and run again, or `campaign resume {setting.row.name} --retry-failed`"
        setting.change(reason=f"{why}; {todo}")
        return outcome_of(setting.row.name)
    verdicts = verdicts or _verdicts_so_far(setting)
    answer = await _gate(setting, verdicts, decide_pilot(verdicts))
    get_run_logger().info("Gate of plan %s: %s by %s", answer.plan_hash, answer.answer, answer.by)
    if answer.answer == "KILL":
        return await _kill(setting, verdicts, answer)
    if answer.answer == "PIVOT":
        return await _pivot(setting, verdicts, answer)
    tree, refused = await tree_for_full(setting)
    if refused:
        # What runs already from an earlier start of the phase is followed to its end; nothing new starts.
        if has_open_attempts(setting):
            await follow_to_the_end(setting)
        setting.change(reason=refused)
        return outcome_of(setting.row.name)
    enter_full(setting, answer, tree)
    crash_point("full_opened")
    if not over(setting, setting.campaign.full.name):
        await stage(setting.campaign.name, setting.campaign.full.name)
    return await _finish(setting)


async def _patiently(take: Callable[[], Setting]) -> Setting:
    """What `take` returns; a tick of the monitor may hold the campaign for moments, and is waited for.

    Raises:
        Driven: it was not a tick.
    """
    for _ in range(PATIENCE_SECONDS):
        with suppress(Driven):
            return take()
        await asyncio.sleep(1)
    return take()


async def _pilot(setting: Setting) -> list[StageVerdict]:
    """Run the pilot stages in order; one starts only when the one before it passed."""
    verdicts = []
    for one in setting.plan.stages[:-1]:
        if not over(setting, one.name):
            await stage(setting.campaign.name, one.name)
        verdicts.append(judge(setting, one.name))
        if not verdicts[-1].passed:
            break
    return verdicts


def _verdicts_so_far(setting: Setting) -> list[StageVerdict]:
    return [judge(setting, s.name) for s in setting.plan.stages[:-1] if over(setting, s.name)]


async def _gate(setting: Setting, verdicts: list[StageVerdict], decision: PilotDecision) -> Question:
    """Synthesis, design review and cost to the person who decides; the answer binds to this plan's hash."""
    cost = await cost_of(setting)
    record = await review(setting.campaign.name)
    tree = await setting.tree()
    place: dict[str, Any] = {
        "commit": tree.commit,
        "dirty": tree.dirty,
        "notes": tree.notes,
        "iteration": setting.row.iteration,
        "round_": setting.row.round,
    }
    reviewed = to_markdown(record)
    text = synthesis_markdown(setting.campaign, setting.plan, verdicts, decision, cost, reviewed, **place)
    write_synthesis(text, Path(setting.results))
    await publish_text(setting, "synthesis", text)
    shown = gate_markdown(setting.campaign, setting.plan, verdicts, decision, cost, **place)
    asked = {
        "commit": tree.name,
        "hours_used": cost.used_hours,
        "hours_asked": cost.total_hours,
        "money_asked": cost.price,
        "experiments": cost.experiments,
        "recommendation": decision.recommendation,
        "best": decision.best.value if decision.best else None,
        "review": [dataclasses.asdict(v) for v in record.verdicts],
    }
    answer = await ask_until_answered(setting, shown=f"{shown}\n\n## Design review\n\n{reviewed}", cost=asked)
    why = f"{answer.answer}: {answer.reason}"
    setting.change(status=CampaignStatus.OPEN, reason="", who=answer.by or "gate", why=why)
    return answer


async def _pivot(setting: Setting, verdicts: list[StageVerdict], answer: Question) -> dict[str, Any]:
    verdict = after_pivot(setting.row.iteration, [])
    if not verdict.allowed and not verdict.overridable:
        return await _kill(setting, verdicts, answer, why=verdict.advice)
    end(setting, CampaignStatus.PIVOTED, f"PIVOT by {answer.by}: {answer.reason or 'no reason given'}")
    if not answer.changes:
        return outcome_of(setting.row.name)
    changed = changed_campaign(setting.campaign, answer.changes)
    return await _drive(await _patiently(partial(register, changed, follow_pivots=False)))


async def _kill(setting: Setting, verdicts: list[StageVerdict], answer: Question, why: str = "") -> dict[str, Any]:
    """Roll back: lessons and failure summary kept, everything archived, the next round waits for a person."""
    write_rollback(Path(setting.results), setting.campaign, verdicts, answer, why)
    await publish_results(setting.campaign.name, setting, CampaignStatus.KILLED)
    end(setting, CampaignStatus.KILLED, f"{answer.answer} by {answer.by}: {why or answer.reason or 'no reason given'}")
    crash_point("campaign_ended")
    return outcome_of(setting.row.name)


async def _finish(setting: Setting) -> dict[str, Any]:
    status, reason = ending(setting.row.name, setting.views(setting.campaign.full.name))
    await publish_results(setting.campaign.name, setting, status)
    crash_point("results_exported")
    end(setting, status, reason)
    crash_point("campaign_ended")
    return outcome_of(setting.row.name)
