"""`campaign run` and `resume`: the flow in this process, or triggered as a deployment; the terminal watches."""

import asyncio
import os
import sys
import threading
from typing import Any

from prefect_campaign.cli.live import Watcher
from prefect_campaign.cli.server import ensure_server, is_embedded, refuse_silent
from prefect_campaign.engine.setting import Setting, open_setting, refuse_if_awaited, refuse_if_driven
from prefect_campaign.engine.tree import tree_of
from prefect_campaign.ledger import campaigns, gates
from prefect_campaign.ledger.experiments import reopen
from prefect_campaign.ledger.gates import ANSWERS
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import CampaignStatus

LOOK_SECONDS = 5.0
"""What git has not said by then is left to the flow's own look."""
FAILED = 1
BAD_INPUT = 2


def run_spec(spec: str | Campaign, *, approve: str, by: str, reason: str, new_round: bool, deployed: bool) -> int:
    """Run a spec to its end or its next decision; returns the exit code."""
    from prefect_campaign.model.load import load_campaign

    choice = _choice(approve)
    campaign = load_campaign(spec)
    _check(campaign, spec)
    home = Home.locate().ensure()
    Ledger.open(home).close()
    _tell_changes(campaign)
    _quiet()
    url = ensure_server(home)
    watcher = Watcher(home, campaign.name, url, approve=choice, by=by, reason=reason)
    source = os.path.abspath(spec) if isinstance(spec, str) else campaign
    if deployed:
        from prefect_campaign.cli.serve import trigger

        return _told(trigger(home, source, new_round=new_round, watcher=watcher), url)
    return _told(_in_this_process(source, new_round, watcher), url)


def resume_campaign(name: str, *, approve: str, by: str, reason: str, retry_failed: bool) -> int:
    """Go on with a campaign from the ledger alone; returns the exit code."""
    choice = _choice(approve)
    setting = open_setting(name)
    if setting.row.status == CampaignStatus.KILLED:
        raise Refused(
            f"campaign {name!r}: round {setting.row.round} was killed ({setting.row.reason}); "
            "start another by `campaign run SPEC --new-round`"
        )
    refuse_silent(os.environ.get("PREFECT_API_URL"))
    if retry_failed:
        _reopen(setting, by or "operator")
    _quiet()
    home = setting.home
    url = ensure_server(home)
    watcher = Watcher(home, name, url, approve=choice, by=by, reason=reason)
    return _told(_in_this_process(setting.campaign, False, watcher), url)


def run_here(campaign: Campaign, **options: Any) -> dict[str, Any]:
    """`Campaign.run()`: the flow in this process, the gate answered in the UI or by ``campaign approve``.

    Args:
        campaign: the spec.
        **options: `new_round`, and `approve`, `by`, `reason` to answer the gate unattended.

    Returns:
        The flow's outcome: campaign, status, reason, stage, results folder.
    """
    from prefect_campaign.model.load import load_campaign

    anchored = load_campaign(campaign)
    _check(anchored, campaign)
    home = Home.locate().ensure()
    url = ensure_server(home)
    choice = _choice(str(options.get("approve") or ""))
    watcher = Watcher(
        home, campaign.name, url, approve=choice, by=options.get("by") or "", reason=options.get("reason") or ""
    )
    return _in_this_process(anchored, bool(options.get("new_round")), watcher)


def _in_this_process(spec: str | Campaign, new_round: bool, watcher: Watcher) -> dict[str, Any]:
    from prefect.exceptions import TerminationSignal
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from prefect_campaign.flows.campaign import campaign as campaign_flow

    thread = threading.Thread(target=watcher.run, daemon=True)
    with temporary_settings(updates={PREFECT_API_URL: watcher.api_url}):
        thread.start()
        try:
            outcome = asyncio.run(campaign_flow(spec, new_round=new_round))
        except (KeyboardInterrupt, TerminationSignal) as stop:
            watcher.stop()
            thread.join(timeout=10)
            sys.stdout.flush()  # in a log file this is the last line
            print(f"\nstopped watching; running experiments go on: `campaign resume {watcher.name}`", file=sys.stderr)
            sys.exit(130 if isinstance(stop, KeyboardInterrupt) else 143)
        finally:
            watcher.stop()
            thread.join(timeout=10)
    return dict(outcome)


def _reopen(setting: Setting, who: str) -> None:
    """Failed and held experiments may run again; refused while another process drives the campaign."""
    with setting.ledger.write() as connection:
        row = campaigns.latest_round(connection, setting.row.name) or setting.row
        now = setting.ledger.clock()
        refuse_if_driven(row, now)
        asked = gates.question(connection, row.id, row.plan_hash)
        refuse_if_awaited(connection, row)
        again = [v.exp_id for v in setting.views() if v.state in ("failed", "on_hold")]
        reopen(connection, row.id, again, now=now, who=who, why="asked for again by --retry-failed")
        if again and asked and asked.answer is None:
            gates.withdraw(connection, asked, why="experiments run again", now=now)
        if again and row.status == CampaignStatus.COMPLETED:
            campaigns.set_status(connection, row.id, now=now, who=who, status=CampaignStatus.OPEN)


def _check(campaign: Campaign, source: str | Campaign) -> None:
    """All that can be wrong with a spec and its surroundings, before anything is made."""
    from prefect_campaign.engine.checking import check_spec

    check_spec(campaign, source)
    refuse_silent(os.environ.get("PREFECT_API_URL"))


def _tell_changes(campaign: Campaign) -> None:
    """What no commit holds of the code that runs; the terminal shows no log."""
    tree = tree_of(campaign, LOOK_SECONDS)
    then = "" if campaign.policy.allow_dirty else "; fine for the pilot, but the full phase runs from a commit"
    for note in [] if tree.problem else tree.notes:
        print(f"note: {note}{then if tree.dirty else ''}", file=sys.stderr)


def _choice(approve: str) -> str:
    choice = approve.upper()
    if choice and choice not in ANSWERS:
        raise Refused(f"--approve {approve!r}: choose one of {', '.join(ANSWERS)}")
    return choice


def _quiet() -> None:
    """The terminal belongs to the live view; Prefect's log lines stay in its UI."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _told(outcome: dict[str, Any], url: str) -> int:
    from prefect_campaign.cli.live import tell_outcome

    tell_outcome(outcome, url, embedded=is_embedded(Home.locate(), url))
    if outcome.get("error"):
        return BAD_INPUT
    decided = outcome.get("status") in ("killed", "pivoted")
    complete = outcome.get("status") == "completed" and outcome.get("done") and not outcome.get("failed")
    return 0 if decided or complete else FAILED
