"""The page of `look` in a browser: clicks, keys, layers, and that it asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, expect

import saccade as sc
from saccade.maps import AdditiveMap, DotProductMap, RectifiedSumMap, TokenMap, WindowMap
from saccade.models import RecurrentAttention, SmallCNN, ViT
from saccade.viz import Look
from support.browser import chromium
from support.published import Published

Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Open pages; at the end, none may have said anything or asked for anything but itself."""
    said: list[str] = []
    requested: list[str] = []
    own: set[str] = set()
    contexts: list[BrowserContext] = []

    def opener(seen: Look, width: int = 1280, notebook: bool = False) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        path = tmp_path / "look.html"
        if notebook:
            style = "<style>canvas, img { display: none !important }</style>"
            path.write_text(f"<!doctype html>{style}{seen._repr_html_()}")
        else:
            seen.save_html(path)
        own.update([path.as_uri(), "about:srcdoc"])
        page.goto(path.as_uri())
        if not notebook:
            page.wait_for_selector("html[data-ready]")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in requested if not url.startswith("data:")} <= own


def click(page: Page, y: float, x: float) -> None:
    """Click the picture at these shares of its height and width."""
    box = page.locator("[data-stage]").bounding_box()
    assert box is not None
    page.locator("[data-stage]").click(position={"x": x * box["width"], "y": y * box["height"]})


def heat(page: Page) -> str:
    found: str = page.locator("[data-stage] canvas").evaluate("canvas => canvas.toDataURL()")
    return found


def choose(page: Page, layer: int) -> None:
    page.locator(f'[data-layer="{layer}"]').click()


def test_tokens_of_outlying_norm_have_squares(show: Opener) -> None:
    attention = sc.PairwiseMap(torch.ones(1, 1, 16, 1), torch.zeros(1, 1, 16, 1), 1.0, (4, 4), (4, 4))
    seen = sc.look(Published(attention), torch.rand(1, 3, 32, 32))
    tokens = torch.zeros(1, 16, dtype=torch.bool)
    tokens[0, [6, 9]] = True
    page = show(replace(seen, outliers={"": tokens}))
    text = "2 tokens of outlying norm receive 13% of the attention; squares mark those with a place"
    expect(page.locator("[data-about]")).to_contain_text(text)
    squares = page.locator("svg rect.sink")
    assert [squares.nth(n).get_attribute("width") for n in range(2)] == ["18", "18"]


def test_a_click_shows_the_row_that_attend_gives(show: Opener) -> None:
    torch.manual_seed(0)
    model = ViT(32, 8, 3, width=32, depth=2, heads=2, mlp_width=32)
    seen = sc.look(model, torch.rand(2, 3, 32, 32))
    page = show(seen)
    pairs = seen.maps["blocks.1.attn"]  # the last layer is shown first
    assert isinstance(pairs, sc.PairwiseMap)
    before = heat(page)
    click(page, 0.6, 0.3)
    expected = pairs.attention_from(y=2, x=1)[0]
    top = int(expected.argmax())
    times = (expected.max() / expected.mean()).item()
    state = page.locator("[data-state]")
    expect(state).to_contain_text(
        f"y=2, x=1 attends most to y={top // 4}, x={top % 4} of 4 \N{MULTIPLICATION SIGN} 4: weight "
    )
    expect(state).to_contain_text(f"{times:.1f} times the mean (mean of 2 heads).")
    after = heat(page)
    assert after != before
    for image in range(2):
        for head in (None, 0, 1):
            row = page.evaluate("([i, h]) => [...saccade.row(1, i, 2 * 4 + 1, h)]", [image, head])
            exact = pairs.attention_from(y=2, x=1, head=head)[image].flatten()
            np.testing.assert_allclose(row, exact, rtol=4e-3, atol=1e-6)

    page.get_by_role("button", name="head 2").click()
    expect(state).to_contain_text("(head 2).")
    assert heat(page) not in (before, after)
    page.keyboard.press("Escape")
    expect(state).to_contain_text("Click a position, or use the arrow keys (head 2).")
    page.get_by_role("button", name="mean of the heads").click()
    assert heat(page) == before


def test_arrow_keys_move_the_place_and_layers_share_it(show: Opener) -> None:
    model = SmallCNN(2, attention={2: "multi_head:heads=2", 3: "spatial_gate"})
    seen = sc.look(model, torch.rand(1, 3, 32, 48))
    page = show(seen)
    gate = seen.maps["attention.3"]
    stage, state = page.locator("[data-stage]"), page.locator("[data-state]")
    stage.focus()
    page.keyboard.press("ArrowDown")  # the first key puts it into the middle: y=2, x=3 of 4 x 6
    page.keyboard.press("ArrowRight")
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    value = gate.saliency()[0, 0, 4].item()
    expect(state).to_contain_text("y=0, x=4 of 4 \N{MULTIPLICATION SIGN} 6: ")
    text = state.inner_text()
    assert float(text.rpartition(": ")[2].removesuffix(".")) == pytest.approx(value, rel=1e-2)
    choose(page, 0)
    expect(state).to_contain_text("y=1, x=9 attends most to")  # the same place in 8 x 12
    page.keyboard.press("Escape")
    choose(page, 1)
    expect(state).to_contain_text("Click a position to read its value.")


def pairs_of(kind: str) -> sc.PairwiseMap:
    """Two images, two heads, queries on 3 x 4 places; keys on 2 x 3, or the same places."""
    torch.manual_seed(1)
    q, k = torch.randn(2, 2, 12, 4), torch.randn(2, 2, 6, 4)
    own = (q, torch.randn(2, 2, 12, 4), 0.5, (3, 4), (3, 4))
    match kind:
        case "product":
            return DotProductMap(q, k, 0.5, (3, 4), (2, 3))
        case "rectified sum":
            return RectifiedSumMap(q[..., :1], k[..., :1], 0.5, (3, 4), (2, 3))
        case "additive":
            return AdditiveMap(q, k, 0.5, (3, 4), (2, 3), direction=torch.randn(2, 4))
        case "tokens":
            return TokenMap(*own, extra_queries=q[:, :, :3], extra_keys=q[:, :, 3:6])
        case "bias":
            bias = torch.randn(1, 2, 13, 13)
            return TokenMap(*own, extra_queries=q[:, :, :1], extra_keys=q[:, :, :1], bias=bias)
    windows = torch.randn(2, 2, 2, 8, 4)  # the second window holds four places of padding
    places = torch.tensor([[0, 1, 4, 5, 8, 9, 2, 6], [3, 7, 10, 11, -1, -1, -1, -1]])
    if kind == "pooled windows":
        of_keys = torch.tensor([[0, 1, 5], [4, 3, 2]])
        bias = torch.randn(1, 2, 8, 3)
        return WindowMap(windows, windows[:, :, :, :3], 0.5, (3, 4), (2, 3), places, bias, of_keys)
    return WindowMap(windows, windows, 0.5, (3, 4), (3, 4), places=places, bias=torch.randn(2, 2, 8, 8))


@pytest.mark.parametrize(
    "kind", ["product", "rectified sum", "additive", "tokens", "bias", "windows", "pooled windows"]
)
def test_rows_of_other_weights_are_right_too(show: Opener, kind: str) -> None:
    pairs = pairs_of(kind)
    page = show(sc.look(Published(pairs), torch.rand(2, 3, 24, 32)))
    for head in (None, 1):
        row = page.evaluate("h => [...saccade.row(0, 1, 2 * 4 + 2, h)]", head)
        exact = pairs.attention_from(y=2, x=2, head=head)[1].flatten()
        np.testing.assert_allclose(row, exact, rtol=4e-3, atol=2e-3)


def test_channels_branches_grids_and_fixations_are_shown(show: Opener) -> None:
    images = torch.rand(2, 3, 32, 32)
    model = SmallCNN(2, attention={1: "spatial_transformer", 2: "sk", 3: "se"})
    seen = sc.look(model, images)
    page = show(seen)
    before = heat(page)
    gate = seen.maps["attention.3"]
    assert isinstance(gate, sc.ChannelMap)
    assert gate.top_channels is not None
    top_channels = gate.top_channels[0].tolist()
    page.locator(".channels button").nth(1).click()
    expect(page.locator("[data-state]")).to_have_text(
        f"Channel {top_channels[1]}: features weighted by {gate.weights[0, top_channels[1]]:.3f}."
    )
    assert heat(page) != before
    page.keyboard.press("Escape")
    assert heat(page) == before
    choose(page, 1)
    shares = page.locator(".bars span:last-child").last
    branches = seen.maps["attention.2"]
    assert isinstance(branches, sc.BranchMap)
    expect(shares).to_have_text(f"{100 * branches.weights[0, -1].mean():.1f}%")
    choose(page, 0)
    lines = page.locator("[data-stage] svg path.thin")
    expect(lines).to_have_count(2)
    page.get_by_role("checkbox", name="grid").uncheck()
    expect(lines).to_have_count(0)

    ram = show(sc.look(RecurrentAttention(4, in_channels=3, glimpses=3, size=8), images))
    numbers = ram.locator("[data-stage] svg text")
    expect(numbers).to_have_text(["1", "2", "3"])


def test_colors_opacity_and_images_can_be_chosen(show: Opener) -> None:
    seen = sc.look(SmallCNN(2, attention={2: "spatial_gate"}), torch.rand(2, 3, 32, 32))
    page = show(seen)
    first = heat(page)
    page.locator('[data-image="1"]').click()
    second = heat(page)
    assert second != first
    page.get_by_label("Color map").select_option("viridis")
    assert heat(page) != second
    page.get_by_label("smooth").uncheck()
    blocky = page.locator("[data-stage] canvas").evaluate("c => [c.width, c.height]")
    assert blocky == [8, 8]
    corner = page.locator("[data-stage] canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, 8, 8).data]"
    )
    import matplotlib

    unit = seen.maps["attention.2"].heatmap()[1].numpy()
    colors = matplotlib.colormaps["viridis"](np.rint(255 * unit).astype(int), bytes=True)
    assert np.abs(np.reshape(corner, (8, 8, 4)).astype(int) - colors).max() <= 4  # one level of 256
    page.get_by_label("Opacity").fill("0")
    canvas = page.locator("[data-stage] canvas")
    expect(canvas).to_have_css("opacity", "0")


@pytest.mark.parametrize("width", [320, 1280])
def test_the_map_lies_exactly_over_the_picture_and_nothing_overflows(show: Opener, width: int) -> None:
    model = SmallCNN(2, attention={1: "se", 2: "multi_head:heads=4"})
    seen = sc.look(model, torch.rand(3, 3, 32, 48), names=["a" * 80, "b", "c"])
    page = show(seen, width)
    boxes = [page.locator(f"[data-stage] {part}").bounding_box() for part in ("img", "canvas", "svg")]
    for box in boxes[1:]:
        assert box == pytest.approx(boxes[0], abs=0.1)
    assert boxes[0] is not None
    assert boxes[0]["width"] / boxes[0]["height"] == pytest.approx(1.5, rel=0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_notebooks_styles_do_not_reach_into_the_frame(show: Opener) -> None:
    seen = sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(1, 3, 16, 16))
    page = show(seen, notebook=True)
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for()
    expect(frame.locator("[data-stage] canvas")).to_be_visible()
