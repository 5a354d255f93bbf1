"""Debian's Chromium on the pages of a Prefect server."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright
from programs import needed

SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000.0
"""Milliseconds until the test gives up on something in the page."""


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty page in a browser of its own."""
    chromium = needed("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def field(form: Locator, label: str) -> Locator:
    """One field of Prefect's form, by its label."""
    title = form.page.get_by_text(f"{label} (Optional)", exact=True)
    return form.locator(".schema-form-property", has=title).last


def in_sight(part: Locator) -> None:
    """See that a person who scrolls to this part of the page has it before the eyes, cut off by nothing."""
    part.scroll_into_view_if_needed()
    expect(part).to_be_in_viewport()
