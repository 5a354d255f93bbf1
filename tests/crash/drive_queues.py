"""Drives one campaign whose jobs are handed to a queue or to containers; run again, it goes on where it was.

``python drive_queues.py KIND PLACE SPEC``: KIND is slurm, pbs, command or docker. PLACE is the folder with the fake's
programs, or the address of the fake engine. What the fakes were handed they show at once: patience is shortened.
"""

import asyncio
import os
import sys
from pathlib import Path

import docker
from acme_rig import description
from docker_lab import BUSYBOX
from drive import count_passages, drive
from drive_gpus import OFTEN, look_often

from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import DockerSettings
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.launch.queue.place import Here
from prefect_campaign.launch.slurm import find
from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings

PATIENCE = Patience(unlisted=1.0, record=2.0, submitted=1.0)


def launcher(kind: str, place: str) -> Launcher:
    """The one launcher of this kind."""
    if kind == "slurm":
        find.GRACE_SECONDS, find.APART_SECONDS, find.SHARED_SECONDS = 1.0, 0.1, OFTEN
        return Fleet({"lab": SlurmLauncher(SlurmSettings("lab", programs=place, max_jobs=4), poll_seconds=OFTEN)})
    if kind == "docker":
        settings = DockerSettings(
            image=BUSYBOX, client=lambda: docker.DockerClient(base_url=place), address=place, writable_code=True
        )
        return Fleet({host_name(): DockerLauncher(settings, poll_seconds=OFTEN)})
    os.environ["PATH"] = f"{place}{os.pathsep}{os.environ['PATH']}"
    here = Here("lab")
    scheduler = (
        PbsScheduler("lab", PbsRequest(), here.run)
        if kind == "pbs"
        else CommandScheduler("lab", description(), here.run)
    )
    queue = QueueLauncher("lab", scheduler, here, max_jobs=4, poll_seconds=OFTEN, patience=PATIENCE)
    return Fleet({"lab": queue})


if __name__ == "__main__":
    look_often()
    if "CRASH_PASSAGES" in os.environ:
        count_passages(Path(os.environ["CRASH_PASSAGES"]))
    print("ready", flush=True)
    asyncio.run(drive(sys.argv[3], launcher(*sys.argv[1:3])))
