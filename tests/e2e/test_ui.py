"""The gate in the Prefect UI, as a person sees it: in Debian's Chromium, with the server's own pages."""

from pathlib import Path

from e2e.browser import PATIENCE, field, in_sight, page
from e2e.world import World, until
from playwright.sync_api import Page, expect

__all__ = ["page"]


def test_a_person_reads_the_synthesis_and_continues(world: World, page: Page, tmp_path: Path) -> None:
    expect.set_options(timeout=PATIENCE)
    process = world.start("run", world.spec())
    asked = world.question()
    page.goto(f"{str(world.api).removesuffix('/api')}/runs/flow-run/{asked['flow_run_id']}")
    expect(page.get_by_text("Paused").first).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")

    # What is decided on is the first thing to be seen, and all of it can be read.
    heading = dialog.get_by_role("heading", name="Pilot synthesis: tiny")
    expect(heading).to_be_in_viewport()
    page.screenshot(path=tmp_path / "form.png")
    table = dialog.get_by_role("table").first
    for text in ("exp_id", "p1_2_main_s0", "p1_1_baseline_s0"):
        in_sight(table.get_by_text(text, exact=True))
    in_sight(dialog.get_by_role("heading", name="Recommendation"))
    in_sight(dialog.get_by_text("PROCEED", exact=True))
    in_sight(dialog.get_by_role("heading", name="Cost"))

    expect(dialog.get_by_role("button", name="HOLD")).to_be_visible()
    # Prefect's select takes a click on its words twice, and so not at all; a click on its arrow opens it.
    dialog.locator(".p-select-button__icon").click()
    page.locator(".p-select-option", has_text="CONTINUE").click()
    field(dialog, "Approver").locator("textarea").fill("Ann Example")
    field(dialog, "Reason").locator("textarea").fill("twice as good, and cheap")
    page.screenshot(path=tmp_path / "filled.png")
    dialog.get_by_role("button", name="Submit").click()

    assert process.wait(timeout=150) == 0, world.hint()
    (gate,) = world.gates()
    assert (gate["answer"], gate["by"], gate["reason"]) == ("CONTINUE", "Ann Example", "twice as good, and cheap")
    assert gate["channel"] == "ui"
    assert gate["plan_hash"] == asked["plan_hash"] == world.row()["plan_hash"]
    assert world.states("full") == ["done", "done"]
    expect(page.get_by_text("Completed").first).to_be_visible()
    page.screenshot(path=tmp_path / "completed.png")
    until(lambda: world.state(asked["flow_run_id"]) == "Completed", "the run is completed", world.hint)
