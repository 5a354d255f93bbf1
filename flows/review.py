"""Design review of the full phase by four roles, before a person is asked."""

from prefect import flow

from prefect_campaign.decide.estimate import CostEstimate, estimate_full_hours
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.judge.plan_facts import plan_facts
from prefect_campaign.judge.review import ReviewRecord, review_design
from prefect_campaign.judge.skills import load_skills
from prefect_campaign.model.plan import PILOT
from prefect_campaign.tasks.machines import launcher_of


@flow(name="review", flow_run_name="{campaign}: design review", persist_result=False)
async def review(campaign: str) -> ReviewRecord:
    """Let Skeptic, Completionist, Reproducibility Hawk and Narrative Enforcer look at the plan.

    The roles are the rules of skill ``design-review``; they compute, they do not decide: the record is shown at
    the gate.
    """
    setting = open_setting(campaign)
    cost = await cost_of(setting)
    tree = await setting.tree()
    facts = plan_facts(
        setting.campaign,
        setting.plan,
        cost.total_hours if cost.total_hours is not None else float("nan"),
        setting.campaign.policy.budget.hours,
        tree.commit,
        tree.dirty,
    )
    return review_design(load_skills(setting.home.skill_folders), facts)


async def cost_of(setting: Setting) -> CostEstimate:
    """What the full phase will cost, from what the pilot took."""
    launcher = await launcher_of(setting.campaign)
    gpus = setting.campaign.resources.gpus
    try:
        views, cpus = await launcher.look(), setting.campaign.resources.cpus or 1
    finally:
        launcher.close()
    room = sum(len(v.gpus) for v in views) // gpus if gpus else sum(v.slots // v.width(cpus) for v in views)
    slots = setting.campaign.policy.max_parallel or max(room, 1)
    pilots = [v for v in setting.views() if v.phase == PILOT]
    return estimate_full_hours(setting.campaign, setting.plan, pilots, slots=slots)
