"""Steps between the phases: enter the full phase as approved, end the round."""

import logging

from prefect_campaign.engine.setting import Setting
from prefect_campaign.engine.tree import Tree
from prefect_campaign.ledger import campaigns
from prefect_campaign.ledger.events import ORIGIN, add_event
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.ledger.gates import Question, approved, shown_cost
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.states import CampaignStatus, ExperimentState

NOT_RUNNING = (ExperimentState.PLANNED, ExperimentState.READY, ExperimentState.QUEUED, ExperimentState.ON_HOLD)
log = logging.getLogger("prefect_campaign")


def enter_full(setting: Setting, answer: Question, tree: Tree | None = None) -> None:
    """Open the full phase for exactly the plan that was approved, without what the approver dropped.

    The approval binds to the plan, not to the commit that was shown with it: another one is put on record.

    Args:
        setting: the campaign.
        answer: CONTINUE.
        tree: the code that the phase starts from; None: it is not put on record.

    Raises:
        Refused: the ledger has no approval of this plan.
    """
    now = setting.ledger.clock()
    full = setting.campaign.full.name
    dropped = set(answer.drop or [])
    with setting.ledger.write() as connection:
        row = campaigns.latest_round(connection, setting.row.name)
        same = row is not None and (row.id, row.plan_hash) == (setting.row.id, setting.plan.plan_hash)
        if not same or not approved(connection, setting.row.id, setting.plan.plan_hash):
            raise Refused(
                f"campaign {setting.row.name!r}: plan {setting.plan.plan_hash} has no approval that still holds; "
                f"go on with `campaign resume {setting.row.name}` and answer its gate"
            )
        moves = [
            Move(v.exp_id, ExperimentState(v.state), ExperimentState.CANCELLED, f"dropped at the gate by {answer.by}")
            for v in setting.views(full)
            if v.exp_id in dropped and v.state in NOT_RUNNING
        ]
        move(connection, setting.row.id, moves, now=now, who=answer.by or "gate")
        campaigns.set_status(connection, setting.row.id, now=now, who=answer.by or "gate", phase=FULL, stage=full)
        if tree is not None:
            shown = shown_cost(connection, answer.id).get("commit")
            told = origin(tree, shown)
            data = {"commit": tree.name, "approved": shown, "changed": tree.changed[:100], "notes": tree.notes}
            add_event(connection, setting.row.id, now, "campaign", ORIGIN, why=told, data=data)
    if tree is not None and shown not in (None, tree.name):
        log.warning("campaign %s: %s", setting.row.name, told)


def origin(tree: Tree, approved: str | None) -> str:
    """One line on the code that the full phase starts from.

    Args:
        tree: as it is now.
        approved: name of the commit that was shown to the person who approved; None if it is not known.
    """
    told = tree.name or ("an unknown commit" if tree.problem else "no commit")
    if approved is not None and approved != tree.name:
        told += f", approved at {approved}"
    return "; ".join([told, *tree.notes])


def end(setting: Setting, status: CampaignStatus, why: str) -> None:
    """Close this round or iteration; what was never started is archived as superseded, if the round is over."""
    now = setting.ledger.clock()
    if status == CampaignStatus.KILLED:
        with setting.ledger.write() as connection:
            moves = [
                Move(v.exp_id, ExperimentState(v.state), ExperimentState.SUPERSEDED, why)
                for v in setting.views()
                if v.state in NOT_RUNNING
            ]
            move(connection, setting.row.id, moves, now=now, who="campaign")
    setting.change(status=status, reason=why, why=why)
