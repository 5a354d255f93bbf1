"""Alerts in Prefect: an artifact and log lines of the run that watches, with the choices and how to answer."""

import asyncio
import json
import logging
import shlex
from collections.abc import Sequence
from urllib.parse import quote

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import MissingContextError, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.utilities.urls import url_for

from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger.alert_list import DONE, MEANING, OPEN, WAITING, AlertView, open_words, recent_alerts
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.clock import iso
from prefect_campaign.model.text import printable
from prefect_campaign.results.text import code, markdown
from prefect_campaign.tasks.publish import artifact_key

DEPLOYMENT = "intervene/answer"
LOOK_SECONDS = 5.0


class AlertBoard:
    """Shows the alerts of one round in Prefect as they come and go. It decides nothing, and its trouble ends nothing.

    Args:
        setting: the campaign.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._shown: list[AlertView] = []
        self._trouble = ""
        self._told: set[tuple[int, str, str | None]] = set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.try_look()
            await asyncio.sleep(LOOK_SECONDS)

    async def try_look(self) -> None:
        """Look; what trouble with Prefect or the ledger keeps from being shown now, the next look shows."""
        try:
            await self.look()
        except Exception as error:  # watching goes on, whatever happens to what is shown of it
            if str(error) != self._trouble:
                _log().warning("alerts could not be shown in Prefect: %s; trying again", error)
            self._trouble = str(error)

    async def look(self) -> None:
        """Show what is new since the last look; nothing is shown while nobody was ever asked."""
        with Reader(self._setting.ledger.url) as reader:
            found = recent_alerts(reader, self._setting.row.id)
        if found == self._shown or not (self._told or any(one.state in WAITING for one in found)):
            return
        for one in found:
            self._tell(one)
        name = self._setting.row.name
        text = to_markdown(name, found, await _form_url(found))
        await acreate_markdown_artifact(
            markdown=text, key=artifact_key(name, "alerts"), description=f"{name}: what asks for an answer"
        )
        self._shown = found

    def _tell(self, one: AlertView) -> None:
        news = (one.id, one.state, one.answer)
        known = any(alert_id == one.id for alert_id, _, _ in self._told)
        if news in self._told or not (known or one.state in WAITING):
            return
        self._told.add(news)
        if one.state == OPEN:
            how = f"run deployment {DEPLOYMENT}, or `campaign answer {one.id} CHOICE`: {open_words(one.choices)}"
            _log().warning("Alert %d: %s. To answer: %s", one.id, printable(one.message), how)
        else:
            answered = printable(f"{one.answer} by {one.answered_by}") if one.answer else "no answer"
            _log().info("Alert %d: %s; %s", one.id, answered, one.effect or one.state)


def to_markdown(name: str, shown: Sequence[AlertView], form_url: str) -> str:
    """The alerts of a campaign for the UI: each one that waits with its choices and the ways to answer.

    Args:
        name: the campaign.
        shown: its alerts.
        form_url: form of the deployment that takes answers, ending in ``parameters=``; empty if it is not served.
    """
    waiting = [one for one in shown if one.state in WAITING]
    parts = [f"# Alerts of campaign {markdown(name)}"]
    parts += [_asking(one, form_url) for one in waiting] or ["Nothing waits for an answer."]
    others = [one for one in shown if one not in waiting]
    if others:
        rows = [f"| {one.id} | {iso(one.since)} | {_message(one)} | {markdown(_became(one))} |" for one in others]
        parts.append("\n".join(["## Earlier", "", "| id | since | alert | then |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _asking(one: AlertView, form_url: str) -> str:
    lines = [f"## Alert {one.id}", "", f"{_message(one)} (since {iso(one.since)})", ""]
    if one.state != OPEN:
        return "\n".join([*lines, f"**{markdown(one.answer)}** by {markdown(one.answered_by)}; not in effect yet."])
    lines += [f"- **{markdown(c)}**: {MEANING.get(c, 'as it says')}." for c in one.choices]
    lines += ["", "With no answer it waits on; nobody is barged in on."]
    form = form_url and f"[in its form]({form_url}{_encoded(one.id)}), "
    commands = " or ".join(code(f"campaign answer {one.id} {shlex.quote(c)}") for c in one.choices)
    served = "" if form_url else f"; `campaign up` serves a form, {DEPLOYMENT}"
    return "\n".join([*lines, "", f"Answer {form}by {commands}{served}."])


def _message(one: AlertView) -> str:
    return markdown(printable(one.message))


def _became(one: AlertView) -> str:
    answered = f"{one.answer} by {one.answered_by}: " if one.answer else ""
    return answered + (DONE.get(one.effect, one.effect) if one.effect else "its attempt is over")


def _encoded(alert_id: int) -> str:
    """Parameters as Prefect's pages read them from an address: encoded by themselves, and again as part of it."""
    return quote(quote(json.dumps({"alert": alert_id}), safe=""), safe="")


async def _form_url(shown: Sequence[AlertView]) -> str:
    if not any(one.state == OPEN for one in shown):
        return ""
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return ""
    page = url_for("deployment", obj_id=deployment.id)
    return f"{page}/run?parameters=" if page else ""


def _log() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("prefect_campaign")
