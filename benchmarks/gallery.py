"""Pictures of reports, for the pages of documentation. They need playwright and a Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path


def photograph(page_file: Path, picture: Path) -> None:
    """Save the head of a report's gallery as a picture."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_timeout(500)
        box = page.locator(".gallery").bounding_box()
        assert box is not None
        page.screenshot(
            path=picture,
            type="jpeg",
            quality=85,
            full_page=True,
            clip={"x": 20, "y": box["y"] + 185, "width": 1140, "height": 770},
        )
        browser.close()
