"""Every kind of map can be selected in the report as in `look`; heads have the same numbers on both pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

import saccade as sc
from saccade.maps import (
    AttentionMap,
    ClassTokenMap,
    DotProductMap,
    FixationMap,
    GridMap,
    PairwiseMap,
    RectifiedSumMap,
    SpatialMap,
    WindowMap,
)
from saccade.results import read_comparison
from saccade.viz import overlay, write_report
from saccade.viz.payload import select_images
from saccade.viz.report import gallery
from support.browser import chromium
from support.published import Published
from support.report_fixture import IMAGES, make

SIDE = 12


def every_map() -> dict[str, AttentionMap]:
    """Maps on 12 x 12 positions by the name of an attention."""
    torch.manual_seed(0)
    q, k = torch.randn(2, IMAGES, 3, SIDE**2, 8)
    extra = torch.randn(IMAGES, 3, 1, 8)
    own = (SIDE, SIDE)
    windows = torch.randn(IMAGES, 2, 4, 36, 8)
    places = torch.arange(SIDE**2).reshape(2, 6, 2, 6).transpose(1, 2).reshape(4, 36)
    lines = torch.linspace(-0.6, 0.5, 9)
    grid = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1).expand(IMAGES, -1, -1, -1)
    return {
        "vit": ClassTokenMap(q, k, 0.25, own, own, extra, extra),
        "swin": WindowMap(windows, windows, 0.3, own, own, places, torch.randn(2, 1, 36, 36)),
        "dot": DotProductMap(q[:, :1], k[:, :1, :36], 1 / 36, own, (6, 6)),
        "sum": RectifiedSumMap(q[:, :1, :, :1], k[:, :1, :36, :1], 1 / 36, own, (6, 6)),
        "stn": GridMap(grid, size=(24, 24)),
        "ram": FixationMap(torch.rand(IMAGES, 4, 2) - 0.5, ((0.25, 0.25),), (16, 16)),
        "sequence": SpatialMap(torch.rand(IMAGES, 9)),
        "diverged": SpatialMap(torch.full((IMAGES, 4, 4), torch.nan)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    maps = every_map()
    out = make(tmp_path_factory.mktemp("kinds") / "out", ("none", *maps, "se"), seeds=2, maps=maps)
    write_report(out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    said: list[str] = []
    with browser.new_page(viewport={"width": 1500, "height": 900}) as opened:
        opened.set_default_timeout(15_000)
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto((folder / "report.html").as_uri())
        opened.wait_for_selector("html[data-ready]")
        yield opened
    assert said == []


def place(folder: Path, attention: str) -> int:
    return [row["attention"] for row in read_comparison(folder)["leaderboard"]].index(attention)


def shown(folder: Path, attention: str) -> Any:
    """The map of an attention for the first image that the page shows."""
    sources = gallery.read_sources(folder, read_comparison(folder))
    found = sources[place(folder, attention)].gallery.map
    assert found is not None
    return select_images(found, gallery.select_from(sources)[:1])


def click(page: Page, column: int, y: float, x: float) -> None:
    tile = page.locator(f'[data-image="0"] .tile[data-column="{column}"]')
    tile.scroll_into_view_if_needed()
    box = tile.bounding_box()
    assert box is not None
    tile.click(position={"x": x * box["width"], "y": y * box["height"]})


def drawn(page: Page, column: int) -> Any:
    """The colors of a tile's heat map, one for each of its cells."""
    canvas = page.locator(f'[data-image="0"] .tile[data-column="{column}"] canvas')
    values = canvas.evaluate(
        """c => {
            const copy = new OffscreenCanvas(c.width, c.height).getContext("2d");
            copy.drawImage(c, 0, 0);
            return [c.height, c.width, ...copy.getImageData(0, 0, c.width, c.height).data];
        }"""
    )
    return np.reshape(values[2:], (*values[:2], 4))[..., :3]


@pytest.mark.parametrize("attention", ["vit", "swin", "dot", "sum"])
def test_a_click_draws_the_row_of_the_selected_position(page: Page, folder: Path, attention: str) -> None:
    pairs = shown(folder, attention)
    assert isinstance(pairs, PairwiseMap)
    column = place(folder, attention)
    page.get_by_label("smooth").uncheck()
    y, x = 7, 2
    click(page, column, (y + 0.5) / SIDE, (x + 0.5) / SIDE)
    heads = pairs.queries.shape[1]
    for head in [None, *range(heads)] if heads > 1 else [None]:
        if heads > 1:
            chosen = f"mean of {heads} heads" if head is None else f"head {head + 1}"
            page.get_by_label(f"Head of {attention}").select_option(label=chosen)
            expect(page.locator("[data-state]")).to_contain_text(f"({chosen})")
        row = pairs.attention_from(y=y, x=x, head=head)[0]
        top = int(row.argmax())
        columns = row.shape[1]
        expect(page.locator("[data-state]")).to_contain_text(
            f"Image 1, {attention}: y={y}, x={x} attends most to y={top // columns}, x={top % columns} "
            f"of {row.shape[0]} \N{MULTIPLICATION SIGN} {columns}: weight "
        )
        unit = (row - row.min()) / (row.max() - row.min())
        colors = overlay.palette("magma")[np.rint(255 * unit.numpy()).astype(int)].astype(int)
        found = drawn(page, column)
        assert found.shape == colors.shape
        assert np.abs(found - colors).max() <= 12  # two levels of 256: factors have half precision


def test_a_click_on_a_vit_before_is_the_row_of_the_class_token(page: Page, folder: Path) -> None:
    page.get_by_label("smooth").uncheck()
    pairs = shown(folder, "vit")
    for head in (None, 2):
        page.get_by_label("Head of vit").select_option("" if head is None else str(head))
        row = pairs.class_row(head)[0]
        unit = ((row - row.min()) / (row.max() - row.min())).numpy()
        colors = overlay.palette("magma")[np.rint(255 * unit).astype(int)].astype(int)
        assert np.abs(drawn(page, place(folder, "vit")) - colors).max() <= 6


@pytest.mark.parametrize(("attention", "marks"), [("stn", "path.thin"), ("ram", "circle")])
def test_grids_and_fixations_are_marked_and_a_click_reads_their_value(
    page: Page, folder: Path, attention: str, marks: str
) -> None:
    column = place(folder, attention)
    svg = page.locator(f'[data-image="0"] .tile[data-column="{column}"] svg')
    expect(svg.locator(marks)).to_have_count(2 if attention == "stn" else 4)
    if attention == "ram":
        expect(svg.locator("text")).to_have_text(["1", "2", "3", "4"])
        circle = svg.locator("circle").nth(2)
        x, y = overlay.fixation_points(shown(folder, attention), 0)[2]
        assert float(circle.get_attribute("cx") or 0) == pytest.approx(200 * x, abs=0.1)
        assert float(circle.get_attribute("cy") or 0) == pytest.approx(200 * y, abs=0.1)
    else:
        rows, _ = overlay.grid_lines(shown(folder, attention), 0)
        path = svg.locator("path.thin").first.get_attribute("d") or ""
        first = [float(number) for number in path.split("L")[0].removeprefix("M").split()]
        np.testing.assert_allclose(first, 200 * rows[0][0], atol=0.1)
    heat = shown(folder, attention).saliency()[0]
    rows_, columns = heat.shape
    y, x = int(0.55 * rows_), int(0.45 * columns)
    click(page, column, 0.55, 0.45)
    state = page.locator("[data-state]")
    expect(state).to_contain_text(
        f"Image 1, {attention}: y={y}, x={x} of {rows_} \N{MULTIPLICATION SIGN} {columns}: "
    )
    value = float(state.inner_text().rpartition(": ")[2].removesuffix("."))
    assert value == pytest.approx(heat[y, x].item(), rel=1e-2, abs=1e-2)
    expect(svg.locator("path.line.over")).to_have_count(1 if attention == "stn" else 2)
    page.get_by_label("marks").uncheck()
    expect(svg.locator(marks)).to_have_count(0)
    expect(svg.locator("path.line.over")).to_have_count(1)  # the selected position stays
    page.keyboard.press("Escape")
    expect(svg.locator("path.line.over")).to_have_count(0)


def test_no_circles_cover_the_map_of_a_tile(tmp_path: Path) -> None:
    keys = torch.zeros(IMAGES, 1, 16, 1)
    keys[:, 0, 6] = 9
    sink = PairwiseMap(torch.ones(IMAGES, 1, 16, 1), keys, 1.0, (4, 4), (4, 4))
    assert all(map(len, overlay.sink_points(sink)[0]))
    out = make(tmp_path / "out", ("none", "dot"), seeds=2, maps={"dot": sink})
    results = read_comparison(out)
    sources = gallery.read_sources(out, results)
    _, packed = gallery.pack_gallery(sources, results["task"]["classes"], ["none", "dot"])
    (layer,) = packed["layers"]
    assert {"pairs", "heat"} <= layer.keys()
    assert not {"sinks", "sink_share"} & layer.keys()


def test_maps_that_cannot_be_drawn_are_named_and_not_selectable(page: Page, folder: Path) -> None:
    for attention in ("sequence", "diverged"):
        column = place(folder, attention)
        tile = page.locator(f'[data-image="0"] .tile[data-column="{column}"]')
        expect(tile).not_to_have_attribute("tabindex", "0")
        expect(page.locator(".columns li").nth(column + 1)).to_contain_text("map cannot be drawn")
    expect(page.locator(".columns li").nth(place(folder, "none") + 1)).to_contain_text("no map")


def test_heads_have_the_same_numbers_on_both_pages(
    browser: Browser, page: Page, folder: Path, tmp_path: Path
) -> None:
    pairs = shown(folder, "vit")
    options = page.get_by_label("Head of vit").locator("option").all_inner_texts()
    assert options == ["mean of 3 heads", "head 1", "head 2", "head 3"]
    click(page, place(folder, "vit"), 0.3, 0.3)
    page.get_by_label("Head of vit").select_option(label="head 2")
    in_report = page.locator("[data-state]").inner_text()

    sc.look(Published(pairs), torch.rand(1, 3, 24, 24)).save_html(tmp_path / "look.html")
    with browser.new_page() as look:
        look.goto((tmp_path / "look.html").as_uri())
        look.wait_for_selector("html[data-ready]")
        buttons = look.locator(".heads button")
        labels = [button.get_attribute("aria-label") for button in buttons.all()]
        assert labels == ["mean of the heads", "head 1", "head 2", "head 3"]
        look.locator("[data-stage]").click(position={"x": 1, "y": 1})
        stage = look.locator("[data-stage]").bounding_box()
        assert stage is not None
        look.locator("[data-stage]").click(position={"x": 0.3 * stage["width"], "y": 0.3 * stage["height"]})
        look.get_by_role("button", name="head 2").click()
        in_look = look.locator("[data-state]").inner_text()
        cmaps = look.get_by_label("Color map").locator("option").all_inner_texts()
    expected = pairs.attention_from(y=3, x=3, head=1)[0]
    top = int(expected.argmax())
    assert in_look.startswith(f"y=3, x=3 attends most to y={top // SIDE}, x={top % SIDE} of ")
    assert in_look.removesuffix(".") in in_report
    assert cmaps == page.get_by_label("Color map").locator("option").all_inner_texts() == [*overlay.CMAPS]
