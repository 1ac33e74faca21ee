"""Take a screenshot of the gallery of a report, or of a page of `saccade look`, for the documentation.

    python benchmarks/gallery.py runs/cifar10-narrow/report.html docs/cifar10-narrow.jpg
    saccade look runs/ram-translated --images 4 --out look
    python benchmarks/gallery.py look/look.html docs/ram-translated.jpg

Requires playwright and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

_HIDDEN = ".tools, .state { display: none !important } .stage { width: 420px }"


def screenshot(page_file: Path, picture: Path) -> None:
    """Save the top of the gallery of a report, or the image and thumbnails of a page of `saccade look`."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_timeout(500)
        gallery, stage = page.locator(".gallery"), page.locator(".stage")
        if stage.count():
            page.add_style_tag(content=_HIDDEN)
            page.wait_for_timeout(500)
            stage.screenshot(path=picture, type="jpeg", quality=85)
        else:
            box = gallery.bounding_box()
            assert box is not None
            page.screenshot(
                path=picture,
                type="jpeg",
                quality=85,
                full_page=True,
                clip={"x": 20, "y": box["y"] + 185, "width": 1140, "height": 770},
            )
        browser.close()


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]))
