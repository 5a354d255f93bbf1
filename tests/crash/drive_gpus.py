"""Drives campaigns on GPUs, one after the other, without Prefect; run again, it goes on where it was.

``python drive_gpus.py SETTINGS SPEC...`` drives the pilot of each spec to its end and writes its table of results.
SETTINGS is a JSON file: ``hosts`` has the fields of SSH hosts (none: the jobs run on this machine), ``answer`` is what
a tester says, once, as soon as an alert asks. Everything is looked at as often as in the other tests.
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from drive import count_passages, run_stage

from prefect_campaign.engine import (
    away,
    check_run,
    dispatcher,
    environment,
    host_check,
    hosts,
    outcomes,
    planning,
    preflight,
    probing,
    reclaim,
)
from prefect_campaign.engine.answers import answer_alert
from prefect_campaign.engine.setting import Setting, register
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.ledger.alert_list import OPEN, alerts
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.plan import PILOT
from prefect_campaign.model.states import CampaignStatus
from prefect_campaign.results.all_results import write_all_results
from prefect_campaign.tasks.steps import end

OFTEN = 0.05
"""Seconds between two looks at anything."""
SILENCE = 0.2
"""Seconds until people are asked about a busy GPU."""


def look_often() -> None:
    """Shorten what would make a test wait."""
    for module in (hosts, planning):
        vars(module)["FRESH_SECONDS"] = OFTEN
    for module in (away, preflight, probing):
        vars(module)["POLL_SECONDS"] = OFTEN
    for module in (check_run, dispatcher, host_check):
        vars(module)["LOOK_SECONDS"] = OFTEN
    probing.SAMPLE_SECONDS = probing.FAR_SECONDS = OFTEN
    reclaim.EVERY_SECONDS = environment.SWEEP_SECONDS = OFTEN
    preflight.ALERT_SECONDS = SILENCE
    host_check.PAUSES = (OFTEN, OFTEN, OFTEN)
    outcomes.LAUNCH_DELAY = OFTEN


async def drive(spec: str, settings: dict[str, Any]) -> None:
    """From wherever the campaign is to its end."""
    setting = register(spec)
    if CampaignStatus(setting.row.status).ended:
        return
    stage = setting.plan.stages[0].name
    setting.change(phase=PILOT, stage=stage)
    tester = asyncio.create_task(answering(setting, settings["answer"])) if settings.get("answer") else None
    await run_stage(setting, stage, launcher(settings))
    if tester is not None:
        tester.cancel()
        with suppress(asyncio.CancelledError):
            await tester
    folder = Path(setting.results)
    folder.mkdir(parents=True, exist_ok=True)
    write_all_results(setting.views(), setting.campaign, folder)
    end(setting, CampaignStatus.COMPLETED, "")


def launcher(settings: dict[str, Any]) -> Launcher:
    """The machines that the jobs run on."""
    there = [SshHost(**fields) for fields in settings.get("hosts", [])]
    return Fleet({host.name: SshLauncher(host, poll_seconds=OFTEN) for host in there}) if there else LocalLauncher()


async def answering(setting: Setting, choice: str) -> None:
    """Answer the first question, and never again: what was said once must be enough."""
    said = "SELECT id FROM events WHERE kind = 'alert' AND who = 'tester'"
    while True:
        with Reader(setting.ledger.url) as reader:
            asked = [] if reader.rows(said) else [a for a in alerts(reader, setting.row.name) if a.state == OPEN]
        for one in asked[:1]:
            answer_alert(one.id, choice, by="tester")
        await asyncio.sleep(OFTEN)


async def drive_all(specs: list[str], settings: dict[str, Any]) -> None:
    """One campaign after the other."""
    for spec in specs:
        await drive(spec, settings)


if __name__ == "__main__":
    look_often()
    if "CRASH_PASSAGES" in os.environ:
        count_passages(Path(os.environ["CRASH_PASSAGES"]))
    print("ready", flush=True)
    asyncio.run(drive_all(sys.argv[2:], json.loads(Path(sys.argv[1]).read_text())))
