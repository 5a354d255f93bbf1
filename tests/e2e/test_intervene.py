"""An alert in Prefect: seen as an artifact with a link to its form, and answered by deployment ``intervene/answer``."""

import os
import re
import subprocess
import sys
from pathlib import Path

from driver import Driver, gpus
from e2e.browser import PATIENCE, page
from e2e.world import PATIENCE as PATIENCE_SECONDS
from e2e.world import Json, World, until
from playwright.sync_api import Locator, Page, expect

__all__ = ["page"]

TESTS = str(Path(__file__).parents[1])
ASK = "from unit.alert_lab import ask, launching; ask(launching('{name}'))"
SHOW = """
import asyncio
from prefect import flow
from prefect_campaign.engine.setting import open_setting
from prefect_campaign.tasks.alerts import AlertBoard

@flow(name="watch")
async def watch():
    board = AlertBoard(open_setting("{name}"))
    await board.look()
    await board.look()  # no news: nothing is shown again

asyncio.run(watch())
"""


def asked(world: World, name: str) -> Json:
    """The alert of a campaign of that name, an attempt of which waits for a busy GPU."""
    world.python(ASK.format(name=name), PYTHONPATH=TESTS)
    return alert(world, name)


def alert(world: World, name: str) -> Json:
    sql = "SELECT a.* FROM alerts a JOIN campaigns c ON c.id = a.campaign_id WHERE c.name = ?"
    return world.rows(sql, name)[0]


def artifact(world: World, name: str) -> str:
    """What the run that watches shows of the alerts of a campaign."""
    world.python(SHOW.format(name=name))
    shown = artifacts(world, name)
    assert all(one["flow_run_id"] for one in shown)
    return str(shown[-1]["data"])


class TestServed:
    """With `campaign up` serving."""

    def test_the_answer_is_on_record_and_said_in_the_run(self, served: World) -> None:
        one = asked(served, "plain")
        words = (f"alert={one['id']}", "choice=Pick another GPU", "by=Ann", "reason=eve is at it")
        run_id = served.trigger("intervene/answer", *words)
        until(lambda: served.state(run_id) in ("Completed", "Failed", "Crashed"), "the run ends", served.hint)
        run = served.prefect(f"/flow_runs/{run_id}")
        assert run["state"]["name"] == "Completed"
        assert f"alert {one['id']}: Pick another GPU by Ann recorded" in run["state"]["message"]
        assert run["name"] == f"alert {one['id']}: Pick another GPU"
        found = alert(served, "plain")
        assert (found["answer"], found["answered_by"]) == ("Pick another GPU", "Ann")

    def test_a_person_follows_the_link_and_fills_in_the_form(self, served: World, page: Page, tmp_path: Path) -> None:
        expect.set_options(timeout=PATIENCE)
        one = asked(served, "linked")
        text = artifact(served, "linked")
        assert "**Continue anyway**: start beside whoever is there" in text
        assert f"campaign answer {one['id']} 'Pick another GPU'" in text
        (link,) = re.findall(r"\]\((\S+)\)", text)
        page.goto(link)
        expect(page.get_by_role("spinbutton").first).to_have_value(str(one["id"]))
        for told in ("Number of the alert", "starts the experiment beside whoever uses the GPU", "Your name"):
            expect(page.get_by_text(told)).to_be_visible()
        page.screenshot(path=tmp_path / "form.png", full_page=True)
        field(page, "choice").locator(".p-select-button__icon").click()
        page.locator(".p-select-option", has_text="Stop").click()
        field(page, "by").locator("textarea").fill("Ann Example")
        field(page, "reason (Optional)").locator("textarea").fill("not today")
        page.screenshot(path=tmp_path / "filled.png", full_page=True)
        page.get_by_role("button", name="Submit").click()
        until(lambda: alert(served, "linked")["answer"], "the answer is on record", served.hint)
        found = alert(served, "linked")
        assert (found["answer"], found["answered_by"]) == ("Stop", "Ann Example")
        (event,) = served.rows("SELECT * FROM events WHERE kind = 'alert' AND who = 'Ann Example'")
        assert event["why"] == "not today"
        # Whoever looks again sees that it is answered.
        assert "**Stop** by Ann Example; not in effect yet" in artifact(served, "linked")


def field(page: Page, label: str) -> Locator:
    """One field of the form, by its label."""
    return page.locator(".schema-form-property", has=page.get_by_text(label, exact=True)).last


IMPATIENT = """
import sys
from prefect_campaign.engine import preflight
preflight.ALERT_SECONDS, preflight.POLL_SECONDS = 1.0, 0.5
from prefect_campaign.cli.main import main
sys.argv = ["campaign", "resume", "tiny", "--approve", "CONTINUE", "--by", "me"]
main()
"""


def test_a_gpu_that_another_took_is_asked_about_and_used_when_a_person_says_so(world: World, driver: Driver) -> None:
    driver.set(gpus(1))
    spec = world.spec(resources={"gpus": 1, "vram_mb": 1000})
    world.start("run", spec, "--approve", "CONTINUE", "--by", "me", **driver.env, CAMPAIGN_CRASH_AT="intent_recorded")
    until(lambda: world.attempts(), "an attempt has the GPU", world.hint)
    world.started[-1].wait(timeout=PATIENCE_SECONDS)
    driver.run(driver.uuids[0], pid=os.getpid(), used_mb=800)  # between placing and starting
    with (world.folder / "resume.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT],
            cwd=world.folder,
            env={**world.environment, **driver.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    world.started.append(process)

    until(lambda: world.rows("SELECT * FROM alerts"), "people are asked", world.hint)
    (number,) = (row["id"] for row in world.rows("SELECT id FROM alerts"))
    shown = until(lambda: artifacts(world, "tiny"), "the run that watches shows it", world.hint)
    assert f"## Alert {number}" in shown[-1]["data"]
    assert world.prefect(f"/flow_runs/{shown[-1]['flow_run_id']}")["name"] == "tiny: minimal"
    until(lambda: f"campaign answer {number} 'Continue anyway'" in world.said("resume"), "the terminal says so")
    assert f"campaign answer {number} 'Continue anyway'" in world.campaign("status", "tiny").out
    assert [state for _, _, state in world.attempts()] == ["launching"]

    world.campaign("answer", str(number), "continue", "--by", "Ann")
    until(lambda: "launching" not in [s for _, _, s in world.attempts()][:1], "it starts beside the other", world.hint)
    driver.stop(os.getpid())
    assert process.wait(timeout=PATIENCE_SECONDS) == 0, world.hint()
    assert world.states("full") == ["done", "done"]
    assert "Continue anyway by Ann: started" in world.campaign("alerts").out
    assert "Continue anyway by Ann: started" in artifacts(world, "tiny")[-1]["data"]


def artifacts(world: World, name: str) -> list[Json]:
    """What was shown of the alerts of a campaign, oldest first."""
    found = world.prefect("/artifacts/filter", {"artifacts": {"key": {"any_": [f"{name}-alerts"]}}})
    return sorted(found, key=lambda one: one["created"])
