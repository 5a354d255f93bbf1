"""`check`, `status` and `export`."""

import json
import sys
import time
from pathlib import Path

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.alert_list import waiting_alerts
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.text import printable
from prefect_campaign.placement.room import count_of


def show_status(name: str, *, as_json: bool) -> None:
    """Print where one campaign is, or a list of all."""
    with Reader(Home.locate().ledger_url) as reader:
        if not name:
            _show_all(reader, as_json=as_json)
            return
        if as_json:
            # The keys are fixed; NaN and Infinity have no place in JSON.
            json.dump(_plain(queries.status_document(reader, name)), sys.stdout, indent=2, allow_nan=False)
            print()
            return
        row = queries.campaign(reader, name)
        views = queries.experiment_views(reader, row["id"])
        asked = queries.gate(reader, row["id"])
        waiting = waiting_alerts(reader, row["id"])
    from rich.console import Console

    from prefect_campaign.cli.alerts import one_liners
    from prefect_campaign.cli.picture import experiment_table, reasons, render

    console = Console()
    console.print(render(row, views))
    if row["reason"]:
        console.print(printable(row["reason"]), markup=False)
    if asked and not asked["answer"]:
        console.print(f"gate: waits for `campaign approve {name} CONTINUE|PIVOT|KILL --by WHO`", markup=False)
    elif asked:
        console.print(printable(f"gate: {asked['answer']} by {asked['by']} ({asked['reason']})"), markup=False)
    for line in one_liners(waiting, time.time()):
        console.print(line, soft_wrap=True)
    shown = [v for v in views if v.stage == row["stage"]]
    console.print(experiment_table(shown, console.width))
    for why in reasons(shown):
        console.print(f"\n{why}", markup=False, highlight=False)


def show_plan(spec: str) -> None:
    """Check a spec and print its plan."""
    from rich.console import Console
    from rich.table import Table

    from prefect_campaign.cli.reserved_hosts import check_reserved_hosts
    from prefect_campaign.engine.checking import check_spec
    from prefect_campaign.model.load import load_campaign
    from prefect_campaign.model.template import fields_of

    campaign = load_campaign(spec)
    plan = check_spec(campaign, spec)
    check_reserved_hosts(campaign, spec)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("stage", "experiments", "first id"):
        table.add_column(column)
    for stage in plan.stages:
        members = plan.of_stage(stage.name)
        table.add_row(stage.name, str(len(members)), members[0].exp_id)
    console = Console()
    console.print(f"{spec}: campaign {campaign.name}, {len(plan.experiments)} experiments, plan {plan.plan_hash}")
    console.print(table)
    for axis in sorted(set(campaign.sweep.axes) - fields_of(campaign.command) - {campaign.sweep.axis_of("seed")}):
        console.print(f"note: sweep axis {axis!r} is not used in the command", markup=False)


def export_results(name: str, out: Path) -> None:
    """Write the results files of a campaign into `out`."""
    from prefect_campaign.engine.export import export
    from prefect_campaign.engine.setting import open_setting

    setting = open_setting(name)
    for path in export(setting.ledger, setting.campaign, out):
        print(path)


def _show_all(reader: Reader, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(queries.campaign_names(reader)))
        return
    rows = queries.overview(reader)
    if not rows:
        print("no campaigns yet")
        return
    from rich.console import Console

    from prefect_campaign.cli.picture import driven, overview_table

    waits_for = {}
    for row in rows:
        asked, alerts = queries.gate(reader, row["id"]), waiting_alerts(reader, row["id"])
        if row["status"] == "at_gate" and asked and not asked["answer"]:
            waits_for[row["id"]] = f"waits for `campaign approve {row['name']}`"
        elif alerts:
            waits_for[row["id"]] = f"{count_of(len(alerts), 'question')}: `campaign alerts {row['name']}`"
        elif row["status"] in ("open", "at_gate") and not driven(row):
            waits_for[row["id"]] = row["reason"] or f"nobody drives it now: `campaign resume {row['name']}`"
    Console().print(overview_table(rows, waits_for))


def _plain(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
