"""What `campaign doctor` says of a Docker engine: is it there, has it the image, can it do what is asked."""

import os

from prefect_campaign.cli.doctor_here import gb
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, aside, of_error
from prefect_campaign.cli.gpu_numbers import known_numbers
from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.launch.docker.settings import DockerSettings, Engine
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.text import printable


async def engine_findings(group: str, settings: DockerSettings) -> tuple[list[Finding], HostView | None]:
    """Findings about an engine, and this machine as its launcher sees it; None without an engine."""
    launcher = DockerLauncher(settings)
    launcher.number_by(Numbers(known_numbers))
    try:
        engine, found = await aside(lambda: _asked(group, launcher.engine, settings))
        (view,) = await launcher.look()
    except CampaignError as error:
        return [of_error(group, "", error, otherwise="start the engine, or name another machine")], None
    finally:
        launcher.close()
    if view.gpus and not engine.nvidia:
        text = "the engine names no NVIDIA runtime; it may not be able to give GPUs to containers"
        found.append(Finding(group, WARN, text, "install the NVIDIA Container Toolkit, unless GPUs work by CDI"))
    return found, view


def _asked(group: str, docker: DockerEngine, settings: DockerSettings) -> tuple[Engine, list[Finding]]:
    engine = docker.engine()
    about = (
        f"Docker {printable(engine.version)} at {settings.address}, {engine.cpus} processors, {gb(engine.memory_mb)}"
    )
    found = [Finding(group, GOOD, about)]
    if docker.image(settings.image) is not None:
        found.append(Finding(group, GOOD, f"image {settings.image} is there"))
    elif settings.pull == "never":
        text = f"image {settings.image} is not there, and the block says that none is pulled"
        found.append(Finding(group, BAD, text, f"docker pull {settings.image}, or build or import it"))
    else:
        text = f"image {settings.image} is not there; it is pulled when the first experiment starts"
        found.append(Finding(group, NOTE, text, f"docker pull {settings.image}, to have that done"))
    absent = [source for source in settings.data if not os.path.exists(source)]
    found += [
        Finding(group, BAD, f"data {one} is not on this machine", "correct `data` of the block") for one in absent
    ]
    unset = ", ".join(name for name in settings.secrets if name not in os.environ)
    if unset:
        text = f"not set in this environment: {unset}; experiments are refused without"
        found.append(Finding(group, WARN, text, "export it where the campaign runs"))
    if settings.disk_mb and not engine.limits_disk:
        text = f"`disk_mb` has no effect: storage driver {engine.storage} on {engine.backing or '?'} limits no disk"
        found.append(Finding(group, WARN, text, "take it off the block, or use overlay2 on xfs with pquota"))
    limits = [printable(one) for one in engine.warnings if "limit" in one.lower() or "swap" in one.lower()]
    found += [Finding(group, WARN, one, "see the engine's documentation on cgroups") for one in limits]
    return engine, found
