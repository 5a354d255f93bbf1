"""Watching: one batch to its end, or one tick over every open campaign."""

import asyncio
from contextlib import suppress

from prefect import flow, get_run_logger
from prefect.exceptions import CancelledRun

from prefect_campaign.engine.dispatcher import Dispatcher, open_dispatcher
from prefect_campaign.engine.setting import Setting, open_setting
from prefect_campaign.ledger import queries
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import CampaignError, Transient
from prefect_campaign.model.states import CampaignStatus
from prefect_campaign.tasks.experiment import AttemptFailed, current_dispatcher, experiment
from prefect_campaign.tasks.finish import Finisher
from prefect_campaign.tasks.machines import launcher_of
from prefect_campaign.tasks.waiting import tend_gate


@flow(name="monitor", flow_run_name="{campaign}: {stage}", retries=3, retry_delay_seconds=5, persist_result=False)
async def monitor(campaign: str = "all", stage: str = "") -> dict[str, str]:
    """Watch one batch until nothing of it can go on; with no stage, make one tick over all open campaigns.

    Args:
        campaign: name of the campaign, or ``all``.
        stage: stage whose experiments are the batch; empty for a tick.

    Returns:
        Campaign name -> what was found, one line each.
    """
    if stage:
        return {campaign: await _watch(open_setting(campaign), stage)}
    home = Home.locate()
    with Reader(home.ledger_url) as reader:
        names = [row["name"] for row in queries.open_campaigns(reader)]
    found = {}
    for name in names if campaign == "all" else [campaign]:
        try:
            found[name] = await _tick(open_setting(name))
        except CampaignError as error:
            found[name] = str(error)
        get_run_logger().info("%s: %s", name, found[name])
    return found


async def _watch(setting: Setting, stage: str) -> str:
    runs: dict[str, asyncio.Task[object]] = {}
    finisher = Finisher(setting, stage)

    def launched(exp_id: str, _attempt: int) -> None:
        if exp_id not in runs or runs[exp_id].done():
            runs[exp_id] = asyncio.create_task(_followed(exp_id))

    launcher = await launcher_of(setting.campaign)
    async with open_dispatcher(
        setting.ledger, setting.home, setting.campaign, setting.row, stage, launcher
    ) as dispatcher:
        current_dispatcher.set(dispatcher)
        dispatcher.on_launch, dispatcher.on_end, dispatcher.on_news = launched, finisher.ended, finisher.news
        try:
            async with finisher:
                await dispatcher.run()
                await asyncio.gather(*runs.values())
        finally:
            for run in runs.values():
                run.cancel()  # after a fault: a retry of this flow follows the same experiments anew
    return _line(setting, stage)


async def _followed(exp_id: str) -> None:
    """The experiment's task run; how it ended is in the ledger, so its failure is no failure of the watching."""
    with suppress(AttemptFailed, CancelledRun):
        await experiment(exp_id)


async def _tick(setting: Setting) -> str:
    """Reconcile one campaign once: adopt what runs, record what ended, start what can start."""
    stage = setting.row.stage
    if setting.row.status != CampaignStatus.OPEN:
        await tend_gate(setting)
        return f"no material change ({setting.row.status})"
    before = _line(setting, stage)
    launcher = await launcher_of(setting.campaign)
    try:
        async with open_dispatcher(
            setting.ledger, setting.home, setting.campaign, setting.row, stage, launcher
        ) as dispatcher:
            await _one_round(dispatcher)
    except Transient as error:
        return f"watched by its own flow ({error})"
    after = _line(setting, stage)
    return "no material change" if after == before else after


async def _one_round(dispatcher: Dispatcher) -> None:
    await dispatcher.adopt()
    await dispatcher.tick()


def _line(setting: Setting, stage: str) -> str:
    counts: dict[str, int] = {}
    for view in setting.views(stage):
        counts[view.state] = counts.get(view.state, 0) + 1
    return f"{stage}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
