"""`campaign gpus`: what every GPU is, who uses it, and who has it leased."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefect_campaign.cli.gpu_numbers import known_numbers
from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.gpus.visible import reserved_uuids
from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.spec import GpuPolicy
from prefect_campaign.model.text import printable

WATCH_SECONDS = 2.0
WIDE = 116
"""Columns from which leases have a column of their own."""
HOT = 90
"""Degrees Celsius."""
HIDDEN_MB = 1024
"""Memory that a driver or a display may use on a GPU where no process is seen."""
MOST_PROCESSES = 4
"""Shown for each GPU; the rest is counted. `--json` has them all."""

Leases = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(host, UUID) -> leases as the ledger has them."""

Look = Callable[[], Awaitable[list[HostView]]]


def show_gpus(name: str = "", *, watch: bool, as_json: bool) -> None:
    """Print the GPUs of a campaign's machines, or of this machine.

    Args:
        name: the campaign; empty for this machine.
        watch: again and again, until Ctrl-C.
        as_json: a document for programs, one line each with `watch`.
    """
    try:
        asyncio.run(_show(name, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        if not watch:
            raise
    except BrokenPipeError:
        # Whoever read this has seen enough; the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def document(views: Sequence[HostView], leases: Leases) -> dict[str, Any]:
    """The same for programs: ``hosts``, each with its fields and ``gpus``, each with ``processes`` and ``leases``."""
    hosts = []
    for view in views:
        plain = {key: value for key, value in asdict(view).items() if key not in ("gpus", "reserve")}
        gpus = [
            {
                **asdict(gpu),
                "free_mb": gpu.free_mb,
                "reserved": is_reserved(gpu, view),
                "leases": [dict(lease) for lease in leases.get((view.host, gpu.uuid), ())],
            }
            for gpu in view.gpus
        ]
        hosts.append({**plain, "reserve": sorted(view.reserve), "gpus": gpus})
    return {"hosts": hosts}


def render(views: Sequence[HostView], leases: Leases, width: int) -> RenderableType:
    """The picture for a terminal of `width` columns."""
    parts: list[RenderableType] = []
    for view in views:
        parts += [Text(), *_host(view, leases, width)] if parts else _host(view, leases, width)
    return Group(*parts)


def by_rules(look: Look, rules: GpuPolicy) -> Look:
    """The same GPUs; what the campaign keeps from itself is kept as if its hosts did."""

    async def seen() -> list[HostView]:
        kept = {*map(str, rules.reserve)}
        return [
            replace(view, reserve=view.reserve | kept, keep_free=max(view.keep_free, rules.keep_free))
            for view in await look()
        ]

    return seen


def is_reserved(gpu: Gpu, view: HostView) -> bool:
    """Whether its host keeps it for people."""
    return bool(reserved_uuids(view.reserve, view.host, [gpu]))


def device_leases() -> Leases:
    """The leases in the ledger; none if there is no ledger yet."""
    from prefect_campaign.ledger import queries
    from prefect_campaign.ledger.location import Home
    from prefect_campaign.ledger.reading import Reader

    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    try:
        with Reader(Home.locate().ledger_url) as reader:
            for lease in queries.device_leases(reader):
                found.setdefault((lease["host"], lease["device"]), []).append(lease)
    except CampaignError as error:
        # The GPUs are worth seeing all the same.
        if "does not exist yet" not in str(error) and "no campaigns yet" not in str(error):
            print(f"campaign: leases are not shown: {error}", file=sys.stderr)
    return found


async def _show(name: str, *, watch: bool, as_json: bool) -> None:
    look = await _looker(name)
    if as_json:
        while True:
            json.dump(document(await look(), device_leases()), sys.stdout, indent=None if watch else 2)
            print(flush=True)
            if not watch:
                return
            await asyncio.sleep(WATCH_SECONDS)
    console = Console()
    if not watch:
        console.print(render(await look(), device_leases(), console.width))
        return
    if not console.is_terminal:
        while True:
            console.print(render(await look(), device_leases(), console.width))
            await asyncio.sleep(WATCH_SECONDS)
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            picture = render(await look(), device_leases(), console.width)
            told = Text(f"{time.strftime('%H:%M:%S')}  every {WATCH_SECONDS:g} s, Ctrl-C ends", style="dim")
            live.update(Group(told, picture), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


async def _looker(name: str) -> Look:
    if not name:
        from prefect_campaign.launch.local import LocalLauncher

        local = LocalLauncher()
        local.number_by(Numbers(known_numbers))
        return local.look
    from prefect_campaign.engine.setting import open_setting

    setting = open_setting(name)
    if any("/" in launcher for launcher in setting.campaign.launcher):
        from prefect_campaign.cli.server import ensure_server

        ensure_server(setting.home)
    from prefect_campaign.tasks.machines import launcher_of

    fleet = await launcher_of(setting.campaign)
    fleet.number_by(Numbers(known_numbers))
    return by_rules(fleet.look, setting.campaign.policy.gpus)


def _host(view: HostView, leases: Leases, width: int) -> list[RenderableType]:
    head = Text(view.host, style="bold")
    versions = [f"driver {view.driver}" if view.driver else "", f"CUDA {view.cuda}" if view.cuda else ""]
    for told in filter(None, versions):
        head.append(f"  {printable(told)}", style="dim")
    if view.keep_free:
        head.append(f"  {view.keep_free} always kept free", style="magenta")
    parts: list[RenderableType] = [head]
    problem = view.problem or view.gpu_problem
    if problem:
        parts.append(Text(printable(problem), style="red"))
    if view.gpus:
        parts += [_table(view, leases, width), *_problems(view.gpus)]
    elif not problem:
        parts.append(Text(f"no GPUs here; experiments that ask for none run on its {view.slots} processor slots"))
    shown = {gpu.uuid for gpu in view.gpus}
    for (host, device), held in leases.items():
        if host == view.host and device not in shown and device.startswith("GPU-"):
            parts.append(Text(f"leased but not seen: {device} by {', '.join(map(_holder, held))}", style="yellow"))
    return parts


def _table(view: HostView, leases: Leases, width: int) -> Table:
    rows = []
    for gpu in view.gpus:
        used, held = _users(gpu, view), _leases(leases.get((view.host, gpu.uuid), ()))
        rows.append((*_facts(gpu), *((used, held) if width >= WIDE else (_lines([held, used]),))))
    titles = ("#", "GPU", "UUID", "free GB", "busy", "°C", *(("used by", "lease") if width >= WIDE else ("used by",)))
    needs = [max(_width(cell) for cell in column) for column in zip(map(Text, titles), *rows, strict=True)]
    # What the numbers leave is for the last columns, whose lines are cut off first; a model's name never below 12.
    gaps = 2 * (len(titles) - 1)
    spare = width - sum(needs[:1] + needs[2:]) - gaps
    needs[1] = min(needs[1], 24, max(spare, 24 if width >= WIDE else 12))
    room = width - sum(needs[:6]) - gaps
    if len(titles) > 7:
        needs[7] = min(needs[7], room // 2)
        needs[6] = room - needs[7]
    else:
        needs[6] = room
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title, need in zip(titles, needs, strict=True):
        justify: Literal["right", "left"] = "right" if title in ("#", "free GB", "busy", "°C") else "left"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=max(need, 1))
    for row in rows:
        table.add_row(*row)
    return table


def _width(text: Text) -> int:
    return max(line.cell_len for line in text.split())


def _facts(gpu: Gpu) -> tuple[Text, ...]:
    read = gpu.total_mb and not (gpu.problem and gpu.utilisation is None and gpu.temperature is None)
    memory = f"{_gb(gpu.free_mb)}/{_gb(gpu.total_mb)}" if read else "?"
    busy = "?" if gpu.utilisation is None else f"{gpu.utilisation}%"
    heat = "?" if gpu.temperature is None else str(gpu.temperature)
    style = "red" if gpu.problem else ""
    return (
        Text(str(gpu.named) if gpu.named == gpu.index else f"{gpu.named} (now {gpu.index})", style=style),
        Text(printable(gpu.name).removeprefix("NVIDIA "), style=style),
        Text(printable(short_uuid(gpu.uuid))),
        Text(memory),
        Text(busy),
        Text(heat, style="red" if (gpu.temperature or 0) >= HOT else ""),
    )


def short_uuid(uuid: str) -> str:
    """What people compare by: ``6c21b0d4`` of ``GPU-6c21b0d4-...``."""
    return uuid.removeprefix("GPU-").split("-")[0] if uuid.startswith("GPU-") else "?"


def _users(gpu: Gpu, view: HostView) -> Text:
    lines = [_process(process) for process in sorted(gpu.processes, key=lambda p: -(p.used_mb or 0))]
    if len(lines) > MOST_PROCESSES:
        lines[MOST_PROCESSES - 1 :] = [Text(f"and {len(lines) - MOST_PROCESSES + 1} more", style="dim")]
    if not lines and gpu.used_mb > HIDDEN_MB and not gpu.problem:
        lines = [Text(f"{_gb(gpu.used_mb)} GB, not seen by whom", style="dim")]
    if is_reserved(gpu, view):
        lines.insert(0, Text("reserved for development", style="magenta"))
    if gpu.problem:
        lines.insert(0, Text("not usable, see below", style="red"))
    return _lines(lines)


def _process(process: GpuProcess) -> Text:
    told = Text(printable(process.user), style="dim" if process.graphics else "")
    told.append("  " + ("?" if process.used_mb is None else f"{_gb(process.used_mb)} GB") + "  ", style="dim")
    if process.run_dir:
        path = PurePosixPath(process.run_dir)
        told.append(f"{printable(path.parent.name)}/{printable(path.name)} ", style="cyan")
    return told.append(f"{printable(process.command)} ({process.pid})")


def _leases(held: Sequence[Mapping[str, Any]]) -> Text:
    return _lines([Text(f"{_holder(lease)}{_leased_mb(lease)}", style="cyan") for lease in held])


def _holder(lease: Mapping[str, Any]) -> str:
    campaign, token = lease.get("campaign"), str(lease.get("token", "?"))
    if not campaign:
        return token
    # Before its attempt is on record, only the token tells whose it is.
    return f"{campaign}/{lease.get('exp_id') or token.removeprefix(f'pc-{campaign}-').lstrip('-')}"


def _leased_mb(lease: Mapping[str, Any]) -> str:
    return "  all" if lease.get("vram_mb") is None else f"  {_gb(lease['vram_mb'])} GB"


def _problems(gpus: Sequence[Gpu]) -> list[Text]:
    """Under the table, where they have room; GPUs with the same one are told together."""
    found: dict[str, list[str]] = {}
    for gpu in gpus:
        if gpu.problem:
            found.setdefault(gpu.problem, []).append(str(gpu.named))
    return [
        Text(f"GPU{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: {printable(problem)}", style="red")
        for problem, numbers in found.items()
    ]


def _lines(texts: Sequence[Text]) -> Text:
    return Text("\n").join(text for text in texts if text)


def _gb(mib: int) -> str:
    return f"{mib / 1024:.1f}".removesuffix(".0")
