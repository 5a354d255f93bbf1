"""Watching: one batch to its end, or one tick over every open campaign."""

import asyncio
from contextlib import suppress

from prefect import flow, get_run_logger
from prefect.exceptions import CancelledRun

from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.dispatcher import open_dispatcher
from prefect_campaign.engine.rounds import elsewhere, has_open_attempts, open_round, rounds_to_tend
from prefect_campaign.engine.setting import Setting, open_setting, refuse_if_driven
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import CampaignError, Driven, Fenced, Transient
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.states import CampaignStatus
from prefect_campaign.tasks.alerts import AlertBoard
from prefect_campaign.tasks.experiment import AttemptFailed, current_dispatcher, experiment
from prefect_campaign.tasks.finish import Finisher
from prefect_campaign.tasks.lost_runs import close_lost_runs
from prefect_campaign.tasks.machines import launcher_of
from prefect_campaign.tasks.tree import note_changes, tree_for_full
from prefect_campaign.tasks.waiting import tend_gate

AGAIN_SECONDS = 10.0
"""Pause before a batch is taken up again after trouble that passes, such as a locked ledger or a full disk."""
AGAIN = 8
"""So often a tick looks again where a scheduler left something in doubt; the next tick knows nothing of it."""


@flow(name="monitor", flow_run_name="{campaign}: {stage}", retries=3, retry_delay_seconds=5, persist_result=False)
async def monitor(campaign: str = "all", stage: str = "") -> dict[str, str]:
    """Watch one batch until nothing of it can go on; with no stage, make one tick over all open campaigns.

    Args:
        campaign: name of the campaign, or ``all``.
        stage: stage whose experiments are the batch; empty for a tick.

    Returns:
        Campaign name -> what was found, one line each.

    Raises:
        Fenced: another process took the batch over.
        Driven: another process is at work on the batch already.
        CampaignError: a tick could not look at some campaign; all others had theirs.
    """
    if stage:
        return {campaign: await _watch(open_setting(campaign), stage)}
    home = Home.locate()
    found, failed = {}, []
    for row in rounds_to_tend(home, None if campaign == "all" else campaign):
        name = row["name"] if row["name"] not in found else f"{row['name']}, round {row['round']}"
        try:
            found[name] = await _tick(open_round(home, row["id"]))
        except (Driven, Fenced) as error:
            found[name] = f"watched by its own flow ({error})"
        except Exception as error:  # one campaign's trouble must not keep the others from their tick
            get_run_logger().exception("%s: could not be looked at", name)
            found[name] = f"{type(error).__name__}: {error}"
            failed.append(name)
        get_run_logger().info("%s: %s", name, found[name])
    if failed:
        raise CampaignError(f"{len(failed)} of {len(found)} not looked at: " + "; ".join(found[n] for n in failed))
    return found


async def _watch(setting: Setting, stage: str) -> str:
    while True:
        try:
            await _watch_until_trouble(setting, stage)
            return _line(setting, stage)
        except Driven:
            raise
        except Transient as trouble:
            get_run_logger().warning("%s; going on in %g s", trouble, AGAIN_SECONDS)
            await asyncio.sleep(AGAIN_SECONDS)


async def _watch_until_trouble(setting: Setting, stage: str) -> None:
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
        dispatcher.on_launch, dispatcher.ends.on_end, dispatcher.on_news = launched, finisher.ended, finisher.news
        board = AlertBoard(setting)
        beside = [asyncio.create_task(_finish_older_rounds(setting)), asyncio.create_task(board.run())]
        if stage == setting.campaign.full.name:
            beside.append(asyncio.create_task(note_changes(setting)))
        try:
            async with finisher:
                await dispatcher.run()
                await asyncio.gather(*runs.values())
                await board.try_look()
        finally:
            # Runs are cancelled after a fault: whoever goes on follows the same experiments anew.
            await stop(*beside, *runs.values())


async def _followed(exp_id: str) -> None:
    """The experiment's task run; how it ended is in the ledger, so its failure is no failure of the watching."""
    with suppress(AttemptFailed, CancelledRun):
        await experiment(exp_id)


async def _finish_older_rounds(setting: Setting) -> None:
    """Follow to its end what still runs from earlier rounds of the campaign: it holds devices."""
    rows = rounds_to_tend(setting.home, setting.row.name)
    await asyncio.gather(
        *(follow_to_the_end(open_round(setting.home, r["id"])) for r in rows if r["id"] != setting.row.id)
    )


async def follow_to_the_end(setting: Setting) -> None:
    """Follow what runs of a round until it is over; nothing is started."""
    launcher = await launcher_of(setting.campaign)
    try:
        async with open_dispatcher(
            setting.ledger, setting.home, setting.campaign, setting.row, None, launcher
        ) as dispatcher:
            await dispatcher.run()
    except CampaignError as error:  # among others: somebody else does it
        get_run_logger().warning("%s, round %d: left alone (%s)", setting.row.name, setting.row.round, error)


async def _tick(setting: Setting) -> str:
    """Reconcile one round once: adopt what runs, record what ended, and start what can start unless it is closed."""
    if where := elsewhere(setting):
        return f"left to the worker there ({where}); to go on here: campaign resume {setting.row.name}"
    await close_lost_runs(setting)
    stage = setting.row.stage if setting.row.status == CampaignStatus.OPEN else None
    if stage is None:
        await tend_gate(setting)
        if not has_open_attempts(setting):
            return f"no material change ({setting.row.status})"
    before = _line(setting, stage)
    refused = ""
    if stage and setting.row.phase == FULL:
        refuse_if_driven(setting.row, setting.ledger.clock())
        _, refused = await tree_for_full(setting)
        stage = None if refused else stage
    launcher = await launcher_of(setting.campaign)
    async with open_dispatcher(
        setting.ledger, setting.home, setting.campaign, setting.row, stage, launcher
    ) as dispatcher:
        await dispatcher.adopt()
        await dispatcher.tick()
        for _ in range(AGAIN):
            if not any(queue.unsettled for queue in launcher.queues.values()):
                break
            await asyncio.sleep(AGAIN_SECONDS)
            await dispatcher.tick()
    after = _line(setting, setting.row.stage if refused else stage)
    return "; ".join(filter(None, ["no material change" if after == before else after, dispatcher.waits, refused]))


def _line(setting: Setting, stage: str | None) -> str:
    counts: dict[str, int] = {}
    for view in setting.views(stage):
        counts[view.state] = counts.get(view.state, 0) + 1
    return f"{stage or setting.row.status}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
