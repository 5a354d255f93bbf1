"""An alert in Prefect: seen as an artifact with a link to its form, and answered by deployment ``intervene/answer``."""

import re
from pathlib import Path

import pytest
from e2e.browser import PATIENCE, page
from e2e.world import Json, World, until
from playwright.sync_api import Locator, Page, expect

__all__ = ["page"]

pytestmark = pytest.mark.e2e

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
    found = world.prefect("/artifacts/filter", {"artifacts": {"key": {"any_": [f"{name}-alerts"]}}})
    assert all(one["flow_run_id"] for one in found)
    return str(max(found, key=lambda one: one["created"])["data"])


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

    @pytest.mark.ui
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
