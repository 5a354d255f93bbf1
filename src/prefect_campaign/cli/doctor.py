"""`campaign doctor`: everything a campaign depends on, looked at once; nothing is started or changed."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from prefect_campaign.cli import compute, doctor_here, doctor_machines, doctor_prefect
from prefect_campaign.cli.doctor_numbers import named_by
from prefect_campaign.cli.doctor_prefect import PREFECT, Block
from prefect_campaign.cli.findings import (
    BAD,
    LIMIT_SECONDS,
    NOTE,
    WARN,
    Finding,
    aside,
    document,
    limited,
    render,
    summary,
)
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.spec import Campaign

MACHINES = "Machines"


def show_doctor(spec: str, *, as_json: bool, limit: float = LIMIT_SECONDS) -> int:
    """Print what was found; returns 1 if anything must be mended, else 0.

    Args:
        spec: path of a spec whose machines and needs are looked at as well; empty for none.
        as_json: a document for programs.
        limit: seconds that each look may take.

    Raises:
        Refused: the spec is wrong.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's notice is for those who use it
    campaign = _campaign(spec)
    home, console = Home.locate(), Console()
    if as_json or not console.is_terminal:
        findings, view = asyncio.run(examine(home, campaign, limit))
    else:
        with console.status("looking at this machine, Prefect and all machines it knows"):
            findings, view = asyncio.run(examine(home, campaign, limit))
    found = compute.detect(view, home)
    if as_json:
        json.dump({**document(findings), "compute": found.document()}, sys.stdout, indent=2)
        print()
    else:
        console.print(render(findings, console.width))
        console.print(Text("What this machine computes with", style="bold"))
        console.print(compute.block(found, console.width))
        console.print()
        console.print(summary(findings))
    return 1 if any(one.level == BAD for one in findings) else 0


async def examine(
    home: Home, campaign: Campaign | None, limit: float = LIMIT_SECONDS
) -> tuple[list[Finding], HostView]:
    """All findings in their order, and this machine as it is seen."""
    environment = dict(os.environ)
    seen: list[HostView] = []

    async def here() -> list[Finding]:
        findings, view = await doctor_machines.local(named=named_by(campaign, "local"))
        seen.append(view)
        return [*findings, *_wanted(campaign, view)]

    parts = await asyncio.gather(
        limited(doctor_here.MACHINE, "this machine", aside(lambda: doctor_here.machine(home)), limit),
        limited(doctor_here.VERSIONS, "installed packages", aside(doctor_here.versions), limit),
        limited(doctor_here.KEYS, "keys", aside(lambda: doctor_here.keys(environment)), limit),
        limited(doctor_here.LEDGER, "the ledger", aside(lambda: doctor_here.ledger(home)), limit),
        limited("GPUs here", "GPUs of this machine", here(), limit),
        _prefect_and_machines(home, campaign, limit),
    )
    findings = [one for part in parts for one in part]
    return findings, seen[0] if seen else HostView("this machine", len(os.sched_getaffinity(0)))


async def _prefect_and_machines(home: Home, campaign: Campaign | None, limit: float) -> list[Finding]:
    url: list[str | None] = [None]
    known: list[Block] = []

    async def server() -> list[Finding]:
        findings, url[0] = await doctor_prefect.server(home)
        return findings

    async def ask() -> list[Finding]:
        known.extend(await doctor_prefect.blocks(url[0] or ""))
        return []

    async def look(one: Block) -> list[Finding]:
        return await doctor_machines.machine(one, named_by(campaign, one.launcher))

    found = await limited(PREFECT, "the Prefect server", server(), limit)
    if url[0]:
        found += await limited(PREFECT, "machine blocks", ask(), limit)
    named = [name for name in (campaign.launcher if campaign else []) if "/" in name]
    found += [_missing(name, url[0]) for name in named if name not in {block.launcher for block in known}]
    looks = (limited(f"Machine {one.launcher}", one.launcher, look(one), limit) for one in known)
    found += [one for some in await asyncio.gather(*looks) for one in some]
    if not known and not named:
        found.append(Finding(MACHINES, NOTE, "only this one; others are Prefect blocks (ssh/NAME, docker/NAME, ...)"))
    return found


def _missing(name: str, url: str | None) -> Finding:
    if url is None:
        do = "set PREFECT_API_URL, or start the embedded server with `campaign up`"
        return Finding(f"Machine {name}", WARN, "cannot be looked up: its block is kept by a Prefect server", do)
    blocks = {"local": "machines.LocalMachine", "ssh": "ssh.SshMachine"}
    blocks |= {"docker": "docker.DockerMachine", "slurm": "slurm.SlurmCluster"}
    blocks |= {"pbs": "pbs.PbsCluster", "command": "command.CommandQueue"}
    kind = blocks[name.partition("/")[0]]
    do = f"save one: prefect_campaign.blocks.{kind}(...).save(...)"
    return Finding(f"Machine {name}", BAD, f"the Prefect server has no such block, and {url} is asked", do)


def _wanted(campaign: Campaign | None, view: HostView) -> Sequence[Finding]:
    """Whether this machine has the GPUs that a spec asks for, if nothing else may run it."""
    if campaign is None or campaign.launcher != ["local"]:
        return []
    usable, wanted = sum(not gpu.problem for gpu in view.gpus), campaign.resources.gpus
    if usable >= wanted:
        return []
    text = f"{campaign.name} asks for {wanted} GPUs an experiment, and {usable} can be used here"
    return [Finding("GPUs here", BAD, text, "ask for fewer in resources.gpus, or name another machine in `launcher`")]


def _campaign(spec: str) -> Campaign | None:
    """The spec, checked; None without one."""
    if not spec:
        return None
    from prefect_campaign.engine.checking import check_spec
    from prefect_campaign.model.load import load_campaign

    campaign = load_campaign(spec)
    check_spec(campaign, spec)
    return campaign
