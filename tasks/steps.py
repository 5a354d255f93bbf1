"""Steps between the phases: enter the full phase as approved, change the plan, end the round."""

from typing import Any

from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger.experiments import Move, move
from prefect_campaign.ledger.gates import Question, approved
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import CampaignStatus, ExperimentState


def refuse_if_driven(setting: Setting) -> None:
    """Leave a campaign alone that another process drives.

    Raises:
        Transient: its dispatcher is alive.
    """
    row = setting.row
    held = row.owner is not None and (row.owner_expires or 0.0) > setting.ledger.clock()
    if held and row.owner and row.owner != own_identity() and identity_alive(row.owner):
        raise Transient(
            f"campaign {row.name!r}: another process drives it ({row.owner}); watch it by `campaign status {row.name}`"
        )


def enter_full(setting: Setting, answer: Question) -> None:
    """Open the full phase for exactly the plan that was approved, without what the approver dropped.

    Raises:
        Refused: the ledger has no approval of this plan.
    """
    now = setting.ledger.clock()
    with setting.ledger.write() as connection:
        if not approved(connection, setting.row.id, setting.plan.plan_hash):
            raise Refused(
                f"campaign {setting.row.name!r}: plan {setting.plan.plan_hash} has no approval; answer its gate"
            )
        dropped = set(answer.drop or [])
        moves = [
            Move(v.exp_id, ExperimentState.PLANNED, ExperimentState.CANCELLED, f"dropped at the gate by {answer.by}")
            for v in setting.views(setting.campaign.full.name)
            if v.exp_id in dropped and v.state == ExperimentState.PLANNED
        ]
        move(connection, setting.row.id, moves, now=now, who=answer.by or "gate")
    setting.change(phase=FULL, stage=setting.campaign.full.name, who=answer.by or "gate")


def pivot_with(setting: Setting, answer: Question) -> Campaign:
    """The spec with the changes that were asked for at the gate.

    A swept parameter is swept over the new value alone; every other one is set in `args`.

    Raises:
        Refused: a change names no parameter of the command, or makes the spec invalid.
    """
    data: dict[str, Any] = setting.campaign.model_dump(mode="json")
    for name, value in (answer.changes or {}).items():
        axes = data["sweep"].get("grid") or data["sweep"].get("zip")
        if axes and name in axes:
            axes[name] = [value]
            continue
        stages = [*data["pilot"], data["full"]]
        for one in stages:
            if name in one["args"]:
                one["args"][name] = value
        data["args"][name] = value
    try:
        return load_campaign(data)
    except Refused as error:
        raise Refused(f"changes: {error}") from None


def end(setting: Setting, status: CampaignStatus, why: str) -> None:
    """Close this round or iteration; what was never started is archived as superseded, if the round is over."""
    now = setting.ledger.clock()
    if status == CampaignStatus.KILLED:
        open_states = (ExperimentState.PLANNED, ExperimentState.READY, ExperimentState.ON_HOLD)
        with setting.ledger.write() as connection:
            moves = [
                Move(v.exp_id, ExperimentState(v.state), ExperimentState.SUPERSEDED, why)
                for v in setting.views()
                if v.state in open_states
            ]
            move(connection, setting.row.id, moves, now=now, who="campaign")
    setting.change(status=status, why=why)
