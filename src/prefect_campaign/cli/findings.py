"""What `campaign doctor` finds, line by line, and how it looks in a terminal."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.text import printable

LIMIT_SECONDS = 15.0
"""What takes longer is called slow, unless the person has given another limit; it holds nothing else up."""

GOOD, NOTE, WARN, BAD = "green", "note", "yellow", "red"
SIGNS = {GOOD: ("✓", "green"), NOTE: ("·", "dim"), WARN: ("!", "bold yellow"), BAD: ("✗", "bold red")}

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line."""

    group: str
    level: str
    """``green``, ``note`` (nothing to do), ``yellow`` or ``red``."""
    what: str
    do: str = ""
    """What to do about it."""


async def limited(
    group: str, what: str, look: Awaitable[Sequence[Finding]], limit: float = LIMIT_SECONDS
) -> list[Finding]:
    """The findings of one look; if it fails or takes too long, that is the finding. Slow is not broken.

    Args:
        group: of the findings.
        what: is looked at, for people.
        look: makes the findings.
        limit: seconds that it may take.
    """
    try:
        async with asyncio.timeout(limit):
            return list(await look)
    except TimeoutError:
        do = f"see that it is up and not busy; `--limit {2 * limit:g}` waits longer"
        return [Finding(group, WARN, f"{what}: slow, no answer within {limit:g} s", do)]
    except CampaignError as error:
        return [of_error(group, what, error)]
    except Exception as error:
        return [Finding(group, BAD, f"{what}: cannot be looked at ({type(error).__name__}: {printable(str(error))})")]


def of_error(group: str, what: str, error: CampaignError, level: str = BAD, otherwise: str = "") -> Finding:
    """An error for people as a finding: what is wrong, and behind the last semicolon what to do, else `otherwise`."""
    said, _, do = printable(str(error)).rpartition("; ")
    text = said or do
    return Finding(group, level, text if what in text else f"{what}: {text}", do if said else otherwise)


async def aside(work: Callable[[], T]) -> T:
    """Do what may block in a thread that nobody waits for when the program ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as found:
            error = found
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # nobody waits any more
            return

    threading.Thread(target=run, daemon=True).start()
    return await done


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for programs; the keys are fixed."""
    count = {level: sum(one.level == level for one in findings) for level in SIGNS}
    return {"healthy": not count[BAD], "count": count, "findings": [asdict(one) for one in findings]}


def render(findings: Sequence[Finding], width: int) -> RenderableType:
    """The findings group by group; what to do is on the same line where there is room."""
    parts: list[RenderableType] = []
    for group in dict.fromkeys(one.group for one in findings):
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=2, justify="right", no_wrap=True)
        table.add_column(width=width - 4, overflow="fold")
        for one in (one for one in findings if one.group == group):
            sign, style = SIGNS[one.level]
            text = Text(one.what, style="dim" if one.level == NOTE else "")
            if one.do:
                beside = text.cell_len + len(one.do) + 6 <= width
                table.add_row(Text(sign, style=style), _with(text, one.do) if beside else text)
                if not beside:
                    table.add_row("", _with(Text(), one.do))
            else:
                table.add_row(Text(sign, style=style), text)
        parts += [Text(group, style="bold"), table, Text()]
    return Group(*parts)


def summary(findings: Sequence[Finding]) -> Text:
    """One line about all of them."""
    red, yellow = (sum(one.level == level for one in findings) for level in (BAD, WARN))
    if not red and not yellow:
        return Text("All is well.", style="bold green")
    told = Text()
    if red:
        told.append(f"{red} to mend", style="bold red")
    if yellow:
        told.append(", " if red else "").append(f"{yellow} to look at", style="bold yellow")
    return told.append(".")


def _with(text: Text, do: str) -> Text:
    return text.append("  → " if text else "→ ", style="cyan").append(do, style="cyan")
