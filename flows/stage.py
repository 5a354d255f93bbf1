"""One stage of a campaign: open it, watch its batch, judge it."""

from prefect import flow

from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.decide.verdicts import StageVerdict
from prefect_campaign.engine.rounds import has_open_attempts
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.flows.monitor import monitor
from prefect_campaign.ledger.campaigns import set_status
from prefect_campaign.ledger.experiments import open_stage
from prefect_campaign.ledger.gates import approved
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.plan import FULL, PILOT
from prefect_campaign.tasks.publish import publish_progress, write_hypotheses


@flow(name="stage", flow_run_name="{campaign}: {stage}", persist_result=False)
async def stage(campaign: str, stage: str) -> bool:
    """Run the experiments of one stage.

    Args:
        campaign: name of the campaign.
        stage: a pilot stage, or the full phase's stage.

    Returns:
        Whether the stage passed.

    Raises:
        Refused: it is the full phase, and nobody approved this very plan.
    """
    setting = open_setting(campaign)
    full = stage == setting.campaign.full.name
    write_hypotheses(setting, stage)
    with setting.ledger.write() as connection:
        if full and not approved(connection, setting.row.id, setting.plan.plan_hash):
            raise Refused(f"campaign {campaign!r}: plan {setting.plan.plan_hash} has no approval; answer its gate")
        now = setting.ledger.clock()
        set_status(connection, setting.row.id, now=now, who="campaign", phase=FULL if full else PILOT, stage=stage)
        open_stage(connection, setting.row.id, stage, now=now)
    crash_point("stage_opened")
    await monitor(campaign, stage)
    verdict = judge(setting, stage)
    crash_point("stage_judged")
    await publish_progress(setting, stage)
    return verdict.passed


def judge(setting: Setting, name: str) -> StageVerdict:
    """What a stage's results say, computed from the ledger as it is now."""
    found = next(s for s in setting.plan.stages if s.name == name)
    return judge_stage(setting.campaign, setting.plan, found, setting.views(name))


def over(setting: Setting, name: str) -> bool:
    """Whether nothing of the stage can go on by itself: all final, or held for a decision."""
    states = {v.state for v in setting.views(name)}
    if "on_hold" in states and has_open_attempts(setting):  # on a host that was away
        return False
    return bool(states) and states <= {"done", "failed", "cancelled", "superseded", "on_hold"}
