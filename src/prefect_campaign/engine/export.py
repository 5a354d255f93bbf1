"""All results files of a campaign, written from the ledger into one folder."""

import logging
from pathlib import Path

from prefect_campaign.decide.vram import compare, used_of
from prefect_campaign.ledger import campaigns, host_checks, queries, vram
from prefect_campaign.ledger.batches import hours_used
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.all_results import write_all_results
from prefect_campaign.results.hosts import host_lines
from prefect_campaign.results.hub import stage_dataset
from prefect_campaign.results.log import write_experiment_log
from prefect_campaign.results.plots import write_plots
from prefect_campaign.results.report import write_report
from prefect_campaign.results.statistics import write_significance


def export(ledger: Ledger, campaign: Campaign, folder: Path, *, status: str | None = None) -> list[Path]:
    """Write tables, statistics, plots, report and the Hugging Face folder; doing it again replaces them.

    Notes that people wrote into ``experiment_log.csv`` stay. `status` is what the report shows instead of the
    ledger's word, for the moment before the campaign is closed.

    Raises:
        Refused: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {folder}: cannot be written ({error.strerror})") from None
    with ledger.read() as connection:
        row = campaigns.latest_round(connection, campaign.name)
    if row is None:
        raise Refused(f"campaign {campaign.name!r}: not in the ledger")
    with Reader(ledger.url) as reader:
        views = [v for v in queries.experiment_views(reader, row.id) if v.state != "superseded"]
        everything = queries.experiment_views(reader, row.id)
        curves = queries.curves(reader, row.id)
        gate = queries.gate(reader, row.id)
        hours = hours_used(reader, row.id, max(campaign.resources.gpus, 1))
        checks = host_checks.told_of_round(reader, row.id)
        on_gpus = vram.attempts_of_round(reader, row.id)
        code = " | ".join(queries.code_origins(reader, row.id))
    wanted = campaign.resources
    paths = write_all_results(views, campaign, folder)
    log = folder / "experiment_log.csv"
    for problem in write_experiment_log(everything, campaign, log, config_path=row.spec_path or ""):
        logging.getLogger("prefect_campaign").warning("%s: %s", log, problem)
    paths.append(log)
    significance = write_significance(views, campaign, folder)
    paths.append(significance)
    plots = write_plots(views, campaign, curves, folder / "plots")
    paths += plots
    synthesis = folder / "pilot_synthesis.md"
    paths.append(
        write_report(
            views,
            campaign,
            folder,
            plots=plots,
            synthesis_path=synthesis if synthesis.is_file() else None,
            significance=significance,
            gate=gate,
            summary={
                "plan_hash": row.plan_hash,
                "hours": hours,
                "status": status or row.status,
                "round": row.round,
                "code_of_the_full_phase": code,
            },
            hosts=host_lines(checks, views),
            memory=compare((used_of(r, wanted.vram_params) for r in on_gpus), wanted.declared_mb),
        )
    )
    paths.append(stage_dataset(folder, campaign, views, folder / "hub"))
    return paths
