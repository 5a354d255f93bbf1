"""What the terminal shows while a campaign runs, and the gate's question in it."""

import select
import sys
import threading
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.prompt import Prompt

from prefect_campaign.cli.alerts import one_liners
from prefect_campaign.cli.picture import render, waits_of
from prefect_campaign.cli.server import ui_url
from prefect_campaign.engine.process import own_identity
from prefect_campaign.ledger import queries
from prefect_campaign.ledger.alert_list import OPEN, waiting_alerts
from prefect_campaign.ledger.gates import ANSWERS
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.text import wording

LOOK_SECONDS = 0.5
SILENT_SECONDS = 60.0
"""A Prefect server that has not answered for so long is given up."""


class Watcher:
    """Follows a campaign in the ledger, shows it, and takes the gate's answer from the terminal or from options."""

    def __init__(self, home: Home, name: str, api_url: str, *, approve: str, by: str, reason: str) -> None:
        self.home = home
        self.name = name
        self.api_url = api_url
        self._approve, self._by, self._reason = approve, by, reason
        self._console = Console(stderr=True)
        self._stop = threading.Event()
        self._flow_run_id: str | None = None
        self._put_already: set[int] = set()
        self._problem = ""
        self._said = self._wish = ""
        self._alerted: set[int] = set()

    def run(self) -> None:
        """Show progress until `stop`; meant for a thread beside the flow."""
        while not self._stop.is_set():
            self._show_safely(self._stop.is_set)
            self._stop.wait(LOOK_SECONDS)

    def stop(self) -> None:
        """End the display."""
        self._stop.set()

    def follow(self, flow_run_id: str) -> dict[str, Any]:
        """Show progress until the flow run has ended; returns what the campaign came to."""
        from prefect.client.orchestration import get_client

        from prefect_campaign.tasks.waiting import UNREACHED

        self._flow_run_id = flow_run_id
        self._console.print(f"flow run {ui_url(self.api_url, flow_run_id)}", soft_wrap=True)
        state: Any = None
        checked = 0.0
        answered = time.monotonic()

        def ended() -> bool:
            nonlocal state, checked, answered
            if time.monotonic() - checked > 1.0:
                checked = time.monotonic()
                try:
                    state = client.read_flow_run(flow_run_id).state  # type: ignore[arg-type]
                    answered = time.monotonic()
                except UNREACHED as error:
                    if time.monotonic() - answered > SILENT_SECONDS:
                        raise _Silent(str(error)) from error
            return state is not None and state.is_final()

        with get_client(sync_client=True) as client:
            try:
                while not ended():
                    self._show_safely(ended)
                    time.sleep(LOOK_SECONDS)
            except _Silent:
                raise Transient(
                    f"the Prefect server at {self.api_url} has not answered for {SILENT_SECONDS:g} s; experiments run "
                    f"on: `campaign resume {self.name}`"
                ) from None
        return self._outcome(state)

    def _outcome(self, state: Any) -> dict[str, Any]:
        from prefect_campaign.engine.setting import outcome_of

        try:
            outcome = outcome_of(self.name)
        except Refused:
            return {"campaign": self.name, "status": "failed", "reason": state.message or state.name}
        if not state.is_completed():
            outcome.pop("error", None)
            outcome |= {"status": "failed", "reason": state.message or state.name}
        return outcome

    def _show_safely(self, ended: Any) -> None:
        """A fault of the display must not look like a fault of the campaign, nor end the watching."""
        try:
            self._show_until(ended)
        except _Silent:
            raise
        except Refused:
            return  # not in the ledger yet
        except Exception as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._console.print(f"display: {error}; trying again", markup=False, highlight=False)

    def _show_until(self, ended: Any) -> None:
        with Reader(self.home.ledger_url) as reader:
            row = queries.campaign(reader, self.name)
            if not self._console.is_terminal:
                while not ended():
                    row = self._step(reader)
                    self._print_news(reader, row)
                    time.sleep(LOOK_SECONDS)
                self._print_news(reader, queries.campaign(reader, self.name))
                return
            while not ended():
                with Live(console=self._console, refresh_per_second=4, transient=False) as live:
                    while not ended() and not self._open_question(reader, row):
                        row = queries.campaign(reader, self.name)
                        picture = render(row, queries.experiment_views(reader, row["id"]))
                        asking = one_liners(waiting_alerts(reader, row["id"]), time.time())
                        live.update(Group(picture, *asking))
                        time.sleep(LOOK_SECONDS)
                if not ended():
                    row = self._step(reader)

    def _step(self, reader: Reader) -> dict[str, Any]:
        row = queries.campaign(reader, self.name)
        asked = self._open_question(reader, row)
        if asked:
            self._put(asked)
        return row

    def _open_question(self, reader: Reader, row: dict[str, Any]) -> dict[str, Any] | None:
        """The question for which the watched run waits; those of other runs are none of ours."""
        asked = queries.gate(reader, row["id"])
        if not asked or asked["answer"] or asked["plan_hash"] != row["plan_hash"] or row["status"] != "at_gate":
            return None
        ours = asked["flow_run_id"] == self._flow_run_id if self._flow_run_id else asked["waiter"] == own_identity()
        return asked if ours and asked["id"] not in self._put_already else None

    def _put(self, asked: dict[str, Any]) -> None:
        """Show the question; answer it from the options, or let the person answer here or elsewhere."""
        self._console.print(Markdown(asked["shown"]))
        if asked["flow_run_id"]:
            url = ui_url(self.api_url, asked["flow_run_id"])
            self._console.print(f"\nanswer in the UI   {url}  (Resume)", soft_wrap=True)
        self._console.print(
            f"or elsewhere       campaign approve {self.name} CONTINUE|PIVOT|KILL --by WHO --reason WHY",
            soft_wrap=True,
        )
        if self._approve:
            self._answer(asked, self._approve, self._by, self._reason or "--approve")
        elif sys.stdin.isatty() and self._console.is_terminal:
            self._prompt(asked)
        self._put_already.add(asked["id"])

    def _prompt(self, asked: dict[str, Any]) -> None:
        self._console.print(f"or here            {'/'.join(ANSWERS)}, then Enter: ", end="")
        while not self._stop.is_set():
            # Both ways stay open: the terminal, and an answer from elsewhere that shows in the ledger.
            ready, _, _ = select.select([sys.stdin], [], [], LOOK_SECONDS)
            with Reader(self.home.ledger_url) as reader:
                latest = queries.gate(reader, asked["campaign_id"])
            if latest and (latest["id"] != asked["id"] or latest["answer"]):
                self._console.print(f"\nanswered elsewhere: {latest['answer'] or 'asked again'}")
                return
            if not ready:
                continue
            line = sys.stdin.readline()
            if not line:
                return
            choice = line.strip().upper()
            if choice not in ANSWERS:
                self._console.print(f"{'/'.join(ANSWERS)}, then Enter: ", end="")
                continue
            by = Prompt.ask("your name", console=self._console)
            reason = Prompt.ask("reason", default="", console=self._console)
            self._answer(asked, choice, by, reason)
            return

    def _answer(self, asked: dict[str, Any], choice: str, by: str, reason: str) -> None:
        from prefect_campaign.cli.approve import answer_gate

        while not self._stop.is_set():
            try:
                self._console.print(answer_gate(self.name, choice, by=by, reason=reason, question_id=asked["id"]))
                return
            except Refused as error:
                self._console.print(str(error), style="red", markup=False, highlight=False)
                return
            except Transient as error:
                self._console.print(f"{error}; trying again", markup=False, highlight=False)
                self._stop.wait(LOOK_SECONDS * 10)

    def _print_news(self, reader: Reader, row: dict[str, Any]) -> None:
        views = [v for v in queries.experiment_views(reader, row["id"]) if v.stage == row["stage"]]
        counts = Counter(v.state for v in views)
        line = f"{row['name']} {row['phase']}/{row['stage']} [{row['status']}]: " + ", ".join(
            f"{n} {state}" for state, n in sorted(counts.items())
        )
        if line != self._said:
            self._said = line
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)
        waits = waits_of(row, views)
        wish = wording(waits)
        if wish and wish != self._wish:  # not every time that a number in it changes
            self._wish = wish
            self._console.print(f"  {waits}", highlight=False, soft_wrap=True, markup=False)
        asking = [a for a in waiting_alerts(reader, row["id"]) if a.state == OPEN and a.id not in self._alerted]
        self._alerted |= {a.id for a in asking}
        for text in one_liners(asking, time.time()):
            self._console.print(text, soft_wrap=True)


class _Silent(Exception):  # noqa: N818 - what happened
    """The server has been silent for too long."""


def tell_outcome(outcome: dict[str, Any], api_url: str, *, embedded: bool) -> None:
    """Say on the terminal what the campaign came to, and where the results are."""
    status = outcome.get("status")
    reason = outcome.get("error") or outcome.get("reason") or ""
    if outcome.get("error"):
        Console(stderr=True).print(f"campaign: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
        return
    lines = [f"campaign {outcome.get('campaign')}: {status}{': ' + reason if reason else ''}"]
    if status == "pivoted":
        lines.append("edit the spec and run it again: the changed plan is the next iteration")
    if outcome.get("results") and status in ("completed", "killed", "open"):
        lines.append(f"results in {outcome['results']}")
    runs_on = " (an embedded server runs on until `campaign down`)" if embedded else ""
    lines.append(f"Prefect UI {ui_url(api_url)}{runs_on}")
    Console().print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
