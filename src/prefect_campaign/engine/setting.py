"""What everything that works on a campaign starts from, opened by the campaign's name alone."""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from prefect_campaign.engine.checking import check_spec
from prefect_campaign.engine.pivot import changed_campaign
from prefect_campaign.engine.process import identity_alive, own_identity
from prefect_campaign.engine.tree import Tree, tree_of
from prefect_campaign.ledger import campaigns, gates, queries
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Driven, Refused
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import PILOT, Plan, make_plan
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import CampaignStatus, ExperimentState


@dataclass(frozen=True)
class Setting:
    """A campaign with its plan, its row in the ledger, and the place where things are kept."""

    home: Home
    ledger: Ledger
    campaign: Campaign
    plan: Plan
    row: CampaignRow

    @property
    def results(self) -> str:
        """Folder of the results of this round."""
        return str(self.home.results(self.row.name, self.row.round))

    def views(self, stage: str | None = None) -> list[ExperimentView]:
        """The experiments as they are now."""
        with Reader(self.ledger.url) as reader:
            return queries.experiment_views(reader, self.row.id, stage)

    def view(self, exp_id: str) -> ExperimentView:
        """One experiment as it is now."""
        with Reader(self.ledger.url) as reader:
            return queries.experiment_views(reader, self.row.id, exp_id=exp_id)[0]

    def change(self, *, who: str = "campaign", why: str = "", **values: Any) -> None:
        """Record a change of status, phase or stage."""
        with self.ledger.write() as connection:
            campaigns.set_status(connection, self.row.id, now=self.ledger.clock(), who=who, why=why, **values)

    async def tree(self) -> Tree:
        """The work tree as it is now; git may take its time."""
        return await asyncio.to_thread(tree_of, self.campaign)


def register(spec: str | dict[str, Any] | Campaign, *, new_round: bool = False, follow_pivots: bool = True) -> Setting:
    """Check a spec and record it with its plan. Nothing is made if anything is wrong with it.

    Args:
        spec: path of a spec, or the spec itself.
        new_round: start over if the campaign has ended.
        follow_pivots: if PIVOTs at the gate have changed this spec's plan, go on with what they made of it.

    Raises:
        Refused: one line that names the file and the field.
        Driven: another process is at work on the campaign.
    """
    campaign = load_campaign(spec)
    plan = check_spec(campaign, spec)
    home = Home.locate().ensure()
    ledger = Ledger.open(home)
    with ledger.write() as connection:
        before = campaigns.latest_round(connection, campaign.name)
        if before:
            refuse_if_driven(before, ledger.clock())
        if before and follow_pivots and not new_round and _follows(connection, before, campaign, plan):
            campaign = load_campaign(before.spec)
            plan = make_plan(campaign)
        row = campaigns.register(
            connection,
            campaign,
            plan,
            now=ledger.clock(),
            spec_path=spec if isinstance(spec, str) else None,
            new_round=new_round,
        )
    crash_point("plan_recorded")
    return Setting(home, ledger, campaign, plan, row)


def refuse_if_driven(row: CampaignRow, now: float) -> None:
    """Leave a campaign alone that another process drives.

    Raises:
        Driven: its dispatcher is alive.
    """
    driver = row.driver(now, identity_alive)
    if driver and driver != own_identity():
        raise Driven(
            f"campaign {row.name!r}: another process drives it ({driver}); watch it by `campaign status {row.name}`"
        )


def refuse_if_awaited(connection: Connection, row: CampaignRow) -> None:
    """Leave a campaign alone at whose gate a living process waits for the answer.

    Raises:
        Driven: it does, and it is another one than this.
    """
    asked = gates.question(connection, row.id, row.plan_hash)
    if asked is None or asked.answer is not None:
        return
    waiter = gates.waiting(connection, asked.id).waiter
    if waiter not in (None, gates.SUSPENDED, own_identity()) and identity_alive(str(waiter)):
        raise Driven(
            f"campaign {row.name!r}: another process waits at its gate ({waiter}); answer by "
            f"`campaign approve {row.name}`, or stop it first (Ctrl-C)"
        )


def setting_of_run(flow_run_id: str) -> Setting | None:
    """The campaign for whose gate a flow run has asked before; None if it has not.

    A suspended run starts from the top once it is resumed: it must go on with the plan that was shown, whatever
    the spec file says by then.

    Raises:
        Refused: another plan or another round took its place meanwhile.
    """
    home = Home.locate()
    try:
        with Reader(home.ledger_url) as reader:
            asked = queries.gate_of_run(reader, flow_run_id)
    except Refused:
        return None  # no ledger yet
    if asked is None:
        return None
    setting = open_setting(asked["name"])
    pivoted = asked["answer"] == "PIVOT" and bool(asked["changes"])
    if setting.row.id != asked["campaign_id"] or (setting.row.plan_hash != asked["plan_hash"] and not pivoted):
        raise Refused(
            f"campaign {setting.row.name!r}: plan {asked['plan_hash']} was replaced by plan {setting.row.plan_hash} "
            f"of round {setting.row.round} while this run waited; go on with `campaign resume {setting.row.name}`"
        )
    return setting


def open_setting(name: str) -> Setting:
    """The newest round of a campaign that is in the ledger.

    Raises:
        Refused: there is none of that name.
    """
    home = Home.locate()
    with Reader(home.ledger_url) as reader:
        queries.campaign(reader, name)
    ledger = Ledger.open(home)
    with ledger.read() as connection:
        row = campaigns.latest_round(connection, name)
    assert row is not None  # noqa: S101 - queries.campaign found it
    campaign = load_campaign(row.spec)
    return Setting(home, ledger, campaign, make_plan(campaign), row)


def outcome_of(name: str) -> dict[str, Any]:
    """What a campaign has come to.

    Returns:
        campaign, round, status, reason, phase, stage, results (folder), done and failed (experiments of the full
        phase), and error if it stopped before the gate because its input is wrong.
    """
    setting = open_setting(name)
    row = setting.row
    states = [v.state for v in setting.views(setting.campaign.full.name)]
    found = {
        "campaign": row.name,
        "round": row.round,
        "status": str(row.status),
        "reason": row.reason,
        "phase": row.phase,
        "stage": row.stage,
        "done": states.count(ExperimentState.DONE),
        "failed": states.count(ExperimentState.FAILED),
        "results": setting.results,
    }
    stopped = row.status == CampaignStatus.OPEN and row.phase == PILOT and row.reason
    return {**found, "error": row.reason} if stopped else found


def _follows(connection: Connection, row: CampaignRow, campaign: Campaign, plan: Plan) -> bool:
    """Whether the campaign's plan is what PIVOTs at the gate, one after the other, have made of this spec."""
    seen: set[str] = set()
    while plan.plan_hash != row.plan_hash and plan.plan_hash not in seen:
        seen.add(plan.plan_hash)
        asked = gates.question(connection, row.id, plan.plan_hash)
        if asked is None or asked.answer != "PIVOT" or not asked.changes:
            return False
        campaign = changed_campaign(campaign, asked.changes)
        plan = make_plan(campaign)
    return bool(seen) and plan.plan_hash == row.plan_hash
