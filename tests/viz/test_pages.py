"""What a reader of both pages sees: sizes, places, words, and how it is used with a finger."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, FloatRect, Locator, Page, expect

import saccade as sc
from saccade.cli.look import look as look_command
from saccade.grammar import shorten
from saccade.maps import FixationMap
from saccade.models import SmallCNN
from saccade.results import read_comparison
from saccade.viz import ALPHA, CMAPS, write_report
from saccade.viz.report.table import pointing_words, relative_costs
from support.browser import chromium
from support.published import Published
from support.report_fixture import ATTENTIONS, make

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def show(browser: Browser) -> Iterator[Opener]:
    contexts: list[BrowserContext] = []

    def opener(path: Path, **options: Any) -> Page:
        contexts.append(browser.new_context(**(options or DESKTOP)))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield opener
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make(tmp_path_factory.mktemp("pages") / "out", scored=True)
    return write_report(out)


@pytest.fixture(scope="module")
def page_of_look(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = SmallCNN(2, attention={1: "se", 2: "multi_head:heads=4", 3: "cbam"})
    names = ["1: a long name of a class, predicted another long name", "2: dog"]
    path = tmp_path_factory.mktemp("look") / "look.html"
    return sc.look(model, torch.rand(2, 3, 32, 32), names=names).save_html(path)


def box(locator: Locator) -> FloatRect:
    found = locator.bounding_box()
    assert found is not None
    return found


# Each visible text with its height in pixels of the screen; drawings are scaled.
TEXTS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
        if (!text || !parent.checkVisibility({ visibilityProperty: true })) continue;
        if (parent.closest(".hidden, script, style, desc, title")) continue;
        const scale = parent.ownerSVGElement ? parent.getScreenCTM().a : 1;
        found.push([parseFloat(getComputedStyle(parent).fontSize) * scale, text]);
    }
    return found;
}"""


@pytest.mark.parametrize("device", [DESKTOP, {"viewport": {"width": 900, "height": 700}}, PHONE])
@pytest.mark.parametrize("name", ["report", "page_of_look"])
def test_no_text_is_smaller_than_12_pixels(
    name: str, device: dict[str, Any], show: Opener, request: pytest.FixtureRequest
) -> None:
    texts = show(request.getfixturevalue(name), **device).evaluate(TEXTS)
    assert len(texts) > 10
    assert [(round(size, 2), text) for size, text in texts if size < 11.99] == []


def test_both_pages_and_the_images_have_one_color_map_and_one_opacity(
    report: Path, page_of_look: Path, show: Opener
) -> None:
    assert inspect.signature(look_command).parameters["alpha"].default == ALPHA <= 0.5
    assert inspect.signature(look_command).parameters["cmap"].default == CMAPS[0]
    for path in (report, page_of_look):
        page = show(path)
        expect(page.get_by_label("Color map")).to_have_value(CMAPS[0])
        expect(page.get_by_label("Opacity")).to_have_value(str(round(100 * ALPHA)))
        expect(page.locator(".tile canvas").first).to_have_css("opacity", str(ALPHA))


# ---- the report -----------------------------------------------------------------------------------------


def test_the_best_value_is_marked_unlike_the_dots_of_seeds(report: Path, show: Opener) -> None:
    page = show(report)
    marks = page.locator(".board .best").evaluate_all(
        "all => all.map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert len(marks) == 9
    assert all("★" in mark for mark in marks)
    expect(page.locator(".note", has_text="A star marks the best value of a column.")).to_be_visible()


def test_words_say_how_a_map_marks_the_target(report: Path, show: Opener) -> None:
    rows = read_comparison(report.parent)["leaderboard"]
    words = {row["attention"]: pointing_words(row["localization"]) for row in rows if row["localization"]}
    assert words["se"] == "hardly points at the target"
    assert words["cbam"] == "low on the target"
    assert words["multi_head:heads=4"] == "high on the target"
    page = show(report)
    for attention, text in words.items():
        row = page.locator(f'.board tr:has([data-value="{attention}"])')
        expect(row.locator(".words")).to_contain_text(text)
    expect(page.locator(".columns")).to_contain_text("marks the target by its low values")
    expect(page.locator("body")).not_to_contain_text("energy of")


def test_costs_are_shown_from_zero_with_whole_names_that_do_not_overlap(report: Path, show: Opener) -> None:
    page = show(report)
    names = [row["attention"] for row in read_comparison(report.parent)["leaderboard"]]
    chart = page.locator('[data-axis="flops"]')
    expect(chart.locator(".notch + .tick").first).to_have_text("0")
    labels = chart.locator(".point text")
    drawn = ["".join(label.locator("tspan").all_text_contents()) for label in labels.all()]
    assert drawn == shorten(names)
    boxes = [box(label) for label in labels.all()]
    for one, other in combinations(boxes, 2):
        assert (
            one["x"] + one["width"] <= other["x"]
            or other["x"] + other["width"] <= one["x"]
            or one["y"] + one["height"] <= other["y"] + 4  # descenders
            or other["y"] + other["height"] <= one["y"] + 4
        )


def test_the_place_beside_the_cost_chart_is_used(report: Path, show: Opener) -> None:
    page = show(report)
    rows = read_comparison(report.parent)["leaderboard"]
    chart, table = box(page.locator(".cost .chart")), box(page.locator(".costs"))
    board = box(page.locator(".scroll").first)
    assert table["x"] > chart["x"] + chart["width"]
    assert table["x"] + table["width"] == pytest.approx(board["x"] + board["width"], abs=2)
    assert table["y"] == pytest.approx(chart["y"], abs=2)
    assert box(page.locator(".cost > div"))["height"] > 0.6 * chart["height"]
    expect(page.locator(".costs thead th")).to_have_text(
        ["Relative to none", "FLOPs", "Latency", "Parameters"]
    )
    for line, row, ratios in zip(
        page.locator(".costs tbody tr").all(), rows, relative_costs(rows)["ratios"], strict=True
    ):
        expect(line.locator("td")).to_have_text([f"{ratio:.2f}\N{MULTIPLICATION SIGN}" for ratio in ratios])
        if row["attention"] == "none":
            assert ratios == [1, 1, 1]


def test_costs_without_a_baseline_are_relative_to_the_cheapest() -> None:
    rows: Any = [
        {"attention": name, "flops": flops, "latency_ms": 2.0, "parameters": 0}
        for name, flops in (("cbam", 30), ("se", 20))
    ]
    assert relative_costs(rows) == {"to": "se", "ratios": [[1.5, 1, None], [1, 1, None]]}


def test_the_first_screen_shows_a_row_of_maps(report: Path, show: Opener) -> None:
    page = show(report, viewport={"width": 1280, "height": 800})
    drawn = [column for column in page.evaluate("saccade.columns") if column["layer"] is not None][:5]
    tiles = page.locator(".hero .tile")
    expect(tiles).to_have_count(len(drawn))
    pixels = "node => node.querySelector('canvas').toDataURL() + node.querySelector('img').src"
    for tile, column in zip(tiles.all(), drawn, strict=True):
        assert box(tile)["y"] + box(tile)["height"] <= 800
        index = tile.get_attribute("data-column")
        assert page.evaluate(f"saccade.columns[{index}].name") == column["name"]
        in_gallery = page.locator(f'.shots > li[data-image="0"] [data-column="{index}"]')
        assert tile.evaluate(pixels) == in_gallery.evaluate(pixels)


def test_an_image_and_five_maps_are_one_row(report: Path, show: Opener) -> None:
    page = show(report, viewport={"width": 1280, "height": 800})
    page.evaluate(
        """() => {
            const tiles = () => [...document.querySelectorAll(".hero > div")];
            while (tiles().length < 6) tiles().at(-1).after(tiles().at(-1).cloneNode(true));
        }"""
    )
    tiles = page.locator(".hero > div").all()
    assert len(tiles) == 6
    assert len({box(tile)["y"] for tile in tiles}) == 1


def test_on_a_phone_the_reader_picks_one_attention(report: Path, show: Opener) -> None:
    page = show(report, **PHONE)
    assert page.evaluate("document.documentElement.scrollHeight") < 6_500
    rows = page.locator(".shots > li:visible")
    assert rows.locator("figure:visible").count() == 2 * rows.count()  # the image and one map
    choice = page.get_by_label("Attention shown")
    best = read_comparison(report.parent)["leaderboard"][0]["attention"]
    expect(page.locator(".columns > li:visible")).to_contain_text(best.partition(":")[0])
    choice.select_option(label="cbam")
    expect(page.locator(".columns > li:visible")).to_contain_text("cbam")
    tile = rows.first.locator(".tile:visible")
    expect(tile).to_have_count(1)
    assert "cbam on image" in (tile.get_attribute("aria-label") or "")
    assert box(tile)["width"] > 150
    assert page.locator(".hero .tile:visible").count() == 2
    choice.select_option(label="all")
    expect(rows.first.locator(".tile:visible")).to_have_count(len(ATTENTIONS))
    choice.select_option(label="cbam")
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(rows.first.locator(".tile:visible")).to_have_count(len(ATTENTIONS))
    expect(choice).to_be_hidden()


def test_on_a_phone_the_answer_is_whole_and_more_columns_are_announced(report: Path, show: Opener) -> None:
    page = show(report, **PHONE)
    table, hint = page.locator(".scroll").first, page.locator(".hint").first
    edge = box(table)["x"] + box(table)["width"]
    for cell in page.locator(".board tr > :nth-child(3)").all():
        assert box(cell)["x"] + box(cell)["width"] <= edge
    expect(hint).to_be_visible()
    table.evaluate("box => box.scrollTo({ left: box.scrollWidth, behavior: 'instant' })")
    expect(hint).to_be_hidden()
    expect(show(report).locator(".hint").first).to_be_hidden()


def test_a_finger_is_told_about_taps_and_reads_a_chart(report: Path, show: Opener) -> None:
    mouse = show(report)
    expect(mouse.get_by_text("Click a map, or focus it and use the arrow keys:")).to_be_visible()
    expect(mouse.locator("kbd")).to_be_visible()
    expect(mouse.get_by_text("Tap a map:")).to_be_hidden()
    page = show(report, **PHONE)
    expect(page.get_by_text("Tap a map:")).to_be_visible()
    for text in ("Click a map", "Hover over"):
        expect(page.get_by_text(text)).to_be_hidden()
    expect(page.locator("kbd")).to_be_hidden()
    page.locator('[data-chart="0"] svg').tap()
    expect(page.locator('[data-chart="0"] .readout')).to_contain_text("epoch")
    page.locator(".shots .tile:visible").first.tap()
    expect(page.locator("[data-state]")).to_contain_text("Image 1, ")


def test_a_printed_page_is_whole_and_has_no_controls(report: Path, page_of_look: Path, show: Opener) -> None:
    for path in (report, page_of_look):
        page = show(path)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 with margins
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        for part in (".tools", ".state", ".hint", ".interactive", "[data-more]"):
            assert page.locator(f"{part}:visible").count() == 0
        expect(page.locator(".tile canvas").first).to_be_visible()
        page.emulate_media(media="print", color_scheme="dark")  # paper is white
        expect(page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
        expect(page.locator("h1")).to_have_css("color", "rgb(0, 0, 0)")


# ---- look -----------------------------------------------------------------------------------------------


def test_the_answer_is_above_the_picture_in_full_and_its_size_is_said(
    page_of_look: Path, show: Opener
) -> None:
    for device in (DESKTOP, PHONE):
        page = show(page_of_look, **device)
        subject, picture = page.locator(".subject"), page.locator("[data-stage]")
        name = "1: a long name of a class, predicted another long name"
        expect(subject).to_contain_text(name)
        assert subject.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert box(subject)["y"] + box(subject)["height"] <= box(picture)["y"]
        expect(subject).to_contain_text("32 \N{MULTIPLICATION SIGN} 32 pixels, enlarged")
        expect(picture.locator("img")).to_have_css("image-rendering", "pixelated")
        assert box(picture)["y"] + box(picture)["height"] <= device["viewport"]["height"]
        page.locator('[data-image="1"]').click()
        expect(subject).to_contain_text("2: dog")


def test_a_large_picture_is_not_called_enlarged(tmp_path: Path, show: Opener) -> None:
    look = sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(1, 3, 600, 600))
    page = show(look.save_html(tmp_path / "look.html"))
    expect(page.locator(".subject small")).to_have_text("600 \N{MULTIPLICATION SIGN} 600 pixels")
    expect(page.locator("[data-stage] img")).to_have_css("image-rendering", "auto")
    controls, picture = box(page.locator(".tools")), box(page.locator(".frame"))
    assert controls["x"] > picture["x"] + picture["width"]  # the right side is used by one image, too
    expect(page.locator(".about")).to_be_visible()


def test_a_finger_is_told_about_taps(page_of_look: Path, show: Opener) -> None:
    page = show(page_of_look, **PHONE)
    page.locator('[data-layer="1"]').tap()
    expect(page.locator("[data-state]")).to_contain_text("Tap a position (mean of 4 heads).")
    expect(page.locator("[data-about]")).to_contain_text("Tap a position to see where it attends.")
    expect(page.locator("kbd")).to_be_hidden()
    page.locator("[data-stage]").tap()
    expect(page.locator("[data-state]")).to_contain_text("attends most to")


def test_a_small_image_is_enlarged_before_marks_are_drawn() -> None:
    places = torch.tensor([[[0.0, 0.0], [0.5, -0.5]]])
    marked = FixationMap(places, extents=((0.25, 0.25),), size=(28, 28))
    look = sc.look(Published(marked), torch.rand(1, 3, 28, 28))
    (path,) = look.maps
    assert look.overlay(path).shape == (224, 224, 3)
    assert (look.overlay(path)[112 - 6 : 112 - 3, 112] > 200).all()  # the first circle, of 14 pixels
    plain = sc.look(Published(sc.SpatialMap(torch.rand(1, 7, 7))), torch.rand(1, 3, 28, 28))
    assert plain.overlay(next(iter(plain.maps))).shape == (28, 28, 3)
