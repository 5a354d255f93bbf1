"""What `campaign doctor` looks at on every machine: can it be reached, its disk, its GPUs, its clock."""

from collections.abc import Sequence
from typing import Any

from prefect_campaign.cli.doctor_here import disk, gb
from prefect_campaign.cli.doctor_numbers import Named, moved
from prefect_campaign.cli.doctor_prefect import Block
from prefect_campaign.cli.doctor_slurm import slurm
from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, of_error
from prefect_campaign.cli.gpu_numbers import known_numbers
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.launch.ssh.inspect import Inspection, inspect
from prefect_campaign.launch.ssh.look import MOST_CLOCK_SECONDS
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.text import printable

SKEW_SECONDS = 5.0
"""A clock that is further off shows wrong ages and run times."""


async def local(
    launcher: LocalLauncher | None = None, group: str = "GPUs here", named: Named = ()
) -> tuple[list[Finding], HostView]:
    """This machine's GPUs and driver."""
    launcher = launcher or LocalLauncher()
    launcher.number_by(Numbers(known_numbers))
    (view,) = await launcher.look()
    return _gpus(group, view, named), view


async def machine(block: Block, named: Named = ()) -> list[Finding]:
    """One machine that a block names.

    Args:
        block: as the Prefect server has it.
        named: what a spec says of its GPUs.
    """
    group, kind = f"Machine {block.launcher}", block.launcher.partition("/")[0]
    try:
        if kind in _QUEUES:
            return await _QUEUES[kind](group, block.data)
        return await _HOSTS[kind](group, block.data, named)
    except CampaignError as error:
        return [of_error(group, "its block cannot be used", error, otherwise="correct the block")]
    except ValueError as error:  # saved by another release, or by hand
        return [Finding(group, BAD, f"its block cannot be used: {_first_line(error)}", "save the block again")]


async def _local(group: str, data: dict[str, Any], named: Named) -> list[Finding]:
    from prefect_campaign.blocks.machines import LocalMachine

    findings, view = await local(LocalMachine.model_validate(data).launcher(), group, named)
    return [Finding(group, GOOD, f"this machine, {view.slots} slots"), *findings]


async def _docker(group: str, data: dict[str, Any], named: Named) -> list[Finding]:
    try:
        from prefect_campaign.blocks.docker import DockerMachine
    except ModuleNotFoundError as error:
        return [Finding(group, BAD, f"{error.name} is not installed", "pip install 'prefect-campaign[docker]'")]
    from prefect_campaign.cli.doctor_docker import engine_findings

    found, view = await engine_findings(group, DockerMachine.model_validate(data).settings())
    return found + (_gpus(group, view, named) if view else [])


async def _pbs(group: str, data: dict[str, Any]) -> list[Finding]:
    from prefect_campaign.cli import doctor_queues

    return await doctor_queues.pbs(group, data)


async def _command(group: str, data: dict[str, Any]) -> list[Finding]:
    from prefect_campaign.cli import doctor_queues

    return await doctor_queues.command(group, data)


async def _ssh(group: str, data: dict[str, Any], named: Named) -> list[Finding]:
    from prefect_campaign.blocks.ssh import SshMachine

    host = SshMachine.model_validate(data).host()
    at = f"{host.user}@{host.target}" if host.user else host.target
    try:
        seen = await inspect(host, Numbers(known_numbers))
    except CampaignError as error:
        port = f" -p {host.port}" if host.port else ""
        return [of_error(group, "", error, otherwise=f"see that it is up, and that `ssh{port} {at}` works from here")]
    found = [Finding(group, GOOD, f"{host.name} ({at}) can be reached, {seen.view.slots} slots")]
    found += [_root(group, seen), *_programs(group, seen, tmux=host.tmux), *_clock(group, seen)]
    return found + _gpus(group, seen.view, named)


def _root(group: str, seen: Inspection) -> Finding:
    if not seen.writable:
        text = f"work folder {seen.root}: {seen.stands_on} cannot be written"
        return Finding(group, BAD, text, "set `root` of the block to a folder of that user")
    free = "free disk unknown" if seen.free_mb is None else f"{gb(seen.free_mb)} free"
    text = f"work folder {seen.root}: can be {'written' if seen.stands_on == seen.root else 'made'}, {free}"
    if seen.free_mb is None:
        return Finding(group, NOTE, text)
    return disk(group, text, seen.free_mb, "make room there, or set `root` of the block to another disk")


def _programs(group: str, seen: Inspection, *, tmux: bool) -> list[Finding]:
    found = []
    if "rsync" not in seen.programs:
        text = "rsync is not installed there: code cannot be sent, nor results fetched"
        found.append(Finding(group, BAD, text, "install rsync there"))
    if tmux and "tmux" not in seen.programs:
        text = "tmux is not installed there, but the block asks for it"
        found.append(Finding(group, BAD, text, "install tmux there, or take `tmux` off the block"))
    if not found:
        shown = [name for name in ("rsync", "tmux") if name in seen.programs]
        found.append(Finding(group, GOOD, f"has {' and '.join(shown)}"))
    return found


def _clock(group: str, seen: Inspection) -> list[Finding]:
    off = abs(seen.clock_off)
    if off <= SKEW_SECONDS:
        return []
    text = f"its clock is {off:.0f} s {'ahead' if seen.clock_off > 0 else 'behind'}"
    if off > MOST_CLOCK_SECONDS:
        return [Finding(group, BAD, f"{text}: ages of files say nothing", "set its clock (chrony, ntp)")]
    return [Finding(group, WARN, text, "set its clock (chrony, ntp)")]


def _gpus(group: str, view: HostView, named: Named) -> list[Finding]:
    found = moved(group, view, named)
    problem = view.problem or view.gpu_problem
    usable = [gpu for gpu in view.gpus if not gpu.problem]
    if problem:
        said, _, do = printable(problem).rpartition("; ")
        found.append(Finding(group, BAD, said or do, do if said else ""))
    if usable:
        driver = ", ".join(filter(None, (f"driver {view.driver}", f"CUDA {view.cuda}" if view.cuda else "")))
        found.append(Finding(group, GOOD, f"{models(usable)}; {driver}"))
    by_problem: dict[str, list[str]] = {}
    for gpu in view.gpus:
        if gpu.problem:
            by_problem.setdefault(gpu.problem, []).append(str(gpu.named))
    for why, numbers in by_problem.items():
        said, _, do = printable(why).rpartition("; ")
        name = f"GPU{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        found.append(Finding(group, WARN, f"{name}: {said or do}", do if said else ""))
    if not view.gpus and not problem:
        found.append(Finding(group, NOTE, "no NVIDIA GPU; experiments that ask for none run in its slots"))
    return found


def models(gpus: Sequence[Gpu]) -> str:
    """``2 x RTX 6000 (24 GB, 20 GB free in all)``: like ones together."""
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((printable(gpu.name).removeprefix("NVIDIA "), gpu.total_mb), []).append(gpu)
    return ", ".join(
        f"{len(some)} x {name} ({gb(total)} each, {gb(sum(g.free_mb for g in some))} free in all)"
        for (name, total), some in kinds.items()
    )


_HOSTS = {"local": _local, "ssh": _ssh, "docker": _docker}
_QUEUES = {"slurm": slurm, "pbs": _pbs, "command": _command}


def _first_line(error: ValueError) -> str:
    problems = getattr(error, "errors", None)
    if problems is None:
        return printable(str(error))
    first = problems()[0]
    return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
