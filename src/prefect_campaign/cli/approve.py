"""Answering the gate from the command line or Python: first the ledger, then the flow run that waits."""

import asyncio
from collections.abc import Sequence

from prefect_campaign.cli.who import person
from prefect_campaign.engine.pivot import changed_campaign, parse_changes
from prefect_campaign.engine.setting import open_setting
from prefect_campaign.ledger import campaigns, gates
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.states import CampaignStatus


def answer_gate(
    name: str,
    choice: str,
    *,
    by: str,
    reason: str,
    drop: Sequence[str] = (),
    changes: Sequence[str] = (),
    budget_hours: float | None = None,
    question_id: int | None = None,
) -> str:
    """Record an answer, bound to the plan that was shown, and wake the flow run that waits for it.

    The answer that is on record already may be given again: then the flow run is only woken.

    Args:
        name: the campaign.
        choice: CONTINUE, PIVOT or KILL.
        by: who decides; default: the logged-in user.
        reason: why.
        drop: exp_ids that the full phase leaves out.
        changes: for PIVOT, ``name=value``.
        budget_hours: device hours that may be used in all.
        question_id: the question that was read, if the answer is to no other one.

    Returns:
        What was done, for people.

    Raises:
        Refused: nothing is asked, it is answered otherwise, or the answer does not validate.
    """
    if choice not in gates.ANSWERS:
        raise Refused(f"answer {choice!r}: choose one of {', '.join(gates.ANSWERS)}")
    setting = open_setting(name)
    wanted = parse_changes(changes)
    who = person(by)
    with setting.ledger.write() as connection:
        asked = gates.question(connection, setting.row.id, setting.plan.plan_hash)
        row = campaigns.latest_round(connection, name)
        if asked is None or row is None or CampaignStatus(row.status).ended:
            raise Refused(f"campaign {name!r}: its gate asks nothing now; see `campaign status {name}`")
        if question_id is not None and asked.id != question_id:
            raise Refused(f"campaign {name!r}: its gate asks anew; read the new question first")
        if asked.answer == gates.HOLD:
            raise Refused(
                f"campaign {name!r}: its gate was put on hold ({asked.reason or 'no reason given'}) and asks anew "
                f"as soon as its flow goes on; if none runs: `campaign resume {name}`"
            )
        if asked.answer not in (None, choice):
            raise Refused(
                f"campaign {name!r}: plan {asked.plan_hash} was answered {asked.answer} by {asked.by} already"
            )
        if asked.answer is None:
            if row.status != CampaignStatus.AT_GATE:
                raise Refused(
                    f"campaign {name!r}: experiments run again since its gate asked; it asks anew with their results"
                )
            if wanted:
                changed_campaign(setting.campaign, wanted)
            gates.answer(
                connection,
                asked,
                choice=choice,
                by=who,
                reason=reason,
                channel="cli",
                now=setting.ledger.clock(),
                drop=drop,
                changes=wanted,
                budget_hours=budget_hours,
            )
            done = f"{choice} by {who} recorded for plan {asked.plan_hash}"
        else:
            if (
                (wanted and wanted != asked.changes)
                or (drop and set(drop) != set(asked.drop or []))
                or (budget_hours not in (None, asked.budget_hours))
            ):
                raise Refused(
                    f"campaign {name!r}: {choice} by {asked.by} is on record with other drops, changes or budget; "
                    "an answer is given once"
                )
            done = f"{choice} by {asked.by} was on record for plan {asked.plan_hash} already"
        waiting = gates.waiting(connection, asked.id)
        asked = gates.question(connection, setting.row.id, setting.plan.plan_hash) or asked
    from prefect_campaign.tasks.waiting import can_wake, wake

    if not can_wake(waiting):
        return f"{done}; no flow run waits for it: go on with `campaign resume {name}`"

    def gone_on() -> bool:
        return open_setting(name).row.status != CampaignStatus.AT_GATE

    woken = asyncio.run(wake(waiting, asked, gone_on=gone_on))
    return done if woken else f"{done}; its flow run does not wait any more: `campaign resume {name}`"
