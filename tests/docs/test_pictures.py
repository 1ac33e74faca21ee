"""The pictures of the guides: each guide has one, diagrams are current, and their text fits their boxes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from support.browser import chromium
from support.guides import DOCS, PAGES

sys.path.insert(0, str(DOCS))

import diagrams
from diagram import Box, diagram

#: The distance of each text from the sides of its box, in units of the drawing.
MARGINS = """() => [...document.querySelectorAll("rect:not(.ground)")].flatMap((rect) => {
  const box = rect.getBBox();
  return [...document.querySelectorAll("text")].map((text) => text.getBBox())
    .filter(({ x, y, width }) => y > box.y && y < box.y + box.height
      && x + width / 2 > box.x && x + width / 2 < box.x + box.width)
    .map(({ x, y, width, height }) => Math.min(
      x - box.x, box.x + box.width - x - width, y - box.y, box.y + box.height - y - height));
})"""


@pytest.mark.parametrize("page", PAGES)
def test_a_guide_has_a_picture_with_a_description(page: str) -> None:
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", PAGES[page])
    assert pictures
    for description, file in pictures:
        assert len(description.split()) > 3
        assert (DOCS / file).stat().st_size < 250_000


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_a_diagram_is_what_its_code_draws_and_a_page_shows_it(name: str) -> None:
    assert (DOCS / f"{name}.svg").read_text() == diagrams.DIAGRAMS[name](), "run python docs/diagrams.py"
    pages = [*PAGES.values(), (DOCS.parent / "CONTRIBUTING.md").read_text()]
    assert any(f"{name}.svg)" in page for page in pages)


def margins(*drawings: str) -> list[list[float]]:
    with chromium() as browser, browser.new_page() as page:
        found = []
        for drawing in drawings:
            page.set_content(f"<body>{drawing}</body>")
            found.append(page.evaluate(MARGINS))
        return found


def test_the_text_of_a_diagram_fits_its_boxes() -> None:
    narrow = diagram("x", {"a": Box(20, 40, 40, ("much too long",))}, [])
    *fitting, too_long = margins(*(draw() for draw in diagrams.DIAGRAMS.values()), narrow)
    assert all(len(distances) >= 5 and min(distances) >= 4 for distances in fitting)
    assert min(too_long) < 0


def test_every_picture_is_shown() -> None:
    text = "".join(page.read_text() for page in [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")])
    pictures = {file.name for suffix in ("jpg", "svg") for file in Path(DOCS).glob(f"*.{suffix}")}
    assert {name for name in pictures if f"{name})" not in text} == set()
