"""`campaign alerts` and `campaign answer`: what asks for a person's word, and giving it."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.alert_list import ANSWERED, DONE, LAPSED, MEANING, OPEN, WAITING, AlertView, alerts
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.text import printable

WIDE = 110
"""Columns from which campaign, experiment and what was done have columns of their own."""
SHOWN = 30
"""So many of those that wait for nothing are shown; the rest is counted. `--json` has them all."""
COLOURS = {"critical": "red", "warning": "yellow"}


def show_alerts(name: str, *, as_json: bool) -> None:
    """Print the alerts of one campaign, or of all: those that wait for an answer first."""
    with Reader(Home.locate().ledger_url) as reader:
        if name:
            queries.campaign(reader, name)  # a name that is not there is refused
        found = alerts(reader, name or None)
    if as_json:
        json.dump([document(one) for one in found], sys.stdout, indent=2)
        print()
        return
    console = Console()
    if not found:
        console.print("no alerts")
        return
    waiting = [one for one in found if one.state in WAITING]
    others = [one for one in found if one not in waiting]
    console.print(table([*waiting, *others[:SHOWN]], console.width, time.time()))
    if len(others) > SHOWN:
        console.print(f"and {len(others) - SHOWN} older ones; --json has all", style="dim")
    offered = dict.fromkeys(choice for one in waiting if one.state == OPEN for choice in one.choices)
    if offered:
        console.print("\nanswer by: campaign answer ID CHOICE --by WHO   (CHOICE: words or number)")
    for choice in offered:
        console.print(Text(f"{choice}: {MEANING[choice]}" if choice in MEANING else choice, style="dim"))


def give_answer(alert_id: str, choice: Sequence[str], *, by: str, reason: str) -> None:
    """Record the answer to an alert, and say what becomes of it.

    Raises:
        Refused: there is no such alert, it asks nothing (any more), or it does not offer this.
    """
    from prefect_campaign.cli.who import person
    from prefect_campaign.engine.answers import answer_alert

    number = alert_id.removeprefix("#")
    if not (number.isascii() and number.isdigit() and len(number) < 40):
        raise Refused(f"alert {alert_id!r}: give its number; `campaign alerts` lists them")
    print(answer_alert(int(number), " ".join(choice), by=person(by), reason=reason).told)


def document(one: AlertView) -> dict[str, Any]:
    """An alert for programs; the keys are fixed."""
    return {**{k: v for k, v in asdict(one).items() if k != "campaign_id"}, "choices": list(one.choices)}


def table(shown: Sequence[AlertView], width: int, now: float) -> Table:
    """The alerts for a terminal of `width` columns."""
    wide = width >= WIDE
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    drawn.add_column("id", justify="right", no_wrap=True)
    drawn.add_column("since", justify="right", no_wrap=True)
    if wide:
        drawn.add_column("experiment", overflow="fold", max_width=width // 3)
    drawn.add_column("message", overflow="fold", ratio=3 if wide else None)
    if wide:
        drawn.add_column("choices, or what was done", overflow="fold", ratio=2)
    for one in shown:
        whose = Text(printable(f"{one.campaign}/{one.exp_id}"))
        message = Text(printable(one.message), style=COLOURS.get(one.severity, ""))
        done = Text(outcome(one), style="bold" if one.state == OPEN else "dim")
        cells = (whose, message, done) if wide else (Text("\n").join((whose, message, done)),)
        drawn.add_row(str(one.id), age(now - one.since), *cells)
    return drawn


def outcome(one: AlertView) -> str:
    """What can be answered, or what became of the alert."""
    if one.state == OPEN:
        return "   ".join(f"{number} {choice}" for number, choice in enumerate(one.choices, 1))
    answered = printable(f"{one.answer} by {one.answered_by}") if one.answer else ""
    if one.state == ANSWERED:
        return f"{answered}; not in effect yet"
    if one.state == LAPSED:
        return f"{answered + '; ' if answered else ''}its attempt is over"
    done = DONE.get(one.effect or "", one.effect)
    return f"{answered}: {done}" if answered else f"{done}; asks nothing"


def one_liners(waiting: Sequence[AlertView], now: float) -> list[Text]:
    """For each alert that waits: what it is, and under it the exact command that answers it."""
    lines = []
    for one in waiting:
        lines.append(Text(f"alert {one.id} ({age(now - one.since)}): {printable(one.message)}", style="yellow"))
        if one.state == OPEN:
            choices = " | ".join(shlex.quote(choice) for choice in one.choices)
            lines.append(Text(f"  campaign answer {one.id} {choices}"))
        else:
            lines.append(Text(f"  {outcome(one)}"))
    return lines


def age(seconds: float) -> str:
    """For people: ``42 s``, ``12 min``, ``3 h``, ``2 d``."""
    for unit, length, least in (("d", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
