"""What everything that works on a campaign starts from, opened by the campaign's name alone."""

from dataclasses import dataclass
from typing import Any

from prefect_campaign.engine.process import git_state
from prefect_campaign.ledger import campaigns, queries
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.load import check_command, load_campaign
from prefect_campaign.model.plan import Plan, make_plan
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign


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

    def git(self) -> tuple[str | None, bool]:
        """Commit of the campaign's work tree, and whether it has local changes."""
        return git_state(self.campaign.workdir)


def register(spec: str | dict[str, Any] | Campaign, *, new_round: bool = False) -> Setting:
    """Check a spec and record it with its plan. Nothing is made if anything is wrong with it.

    Raises:
        Refused: one line that names the file and the field.
    """
    campaign = load_campaign(spec)
    plan = check_spec(campaign)
    home = Home.locate().ensure()
    ledger = Ledger.open(home)
    with ledger.write() as connection:
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


def check_spec(campaign: Campaign) -> Plan:
    """All that can be wrong with a spec before anything is made; returns its plan.

    Raises:
        Refused: one line that names the field.
    """
    plan = make_plan(campaign)
    check_command(campaign)
    if campaign.resources.gpus:
        raise Refused(
            f"resources.gpus: {campaign.resources.gpus} asked, but this release places experiments on processor "
            "slots only; set it to 0 and limit policy.max_parallel instead"
        )
    return plan
