"""The report: what it says, and how it behaves in a browser."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect

from saccade.errors import BadRun
from saccade.maps import PairwiseMap
from saccade.results import compute_leaderboard, read_comparison
from saccade.viz import overlay, write_report
from saccade.viz.payload import select_images
from saccade.viz.report import charts, gallery
from support.browser import chromium
from support.errors import raises
from support.report_fixture import ATTENTIONS, CONVOLVED, make

MULTI_HEAD = "multi_head:heads=4"
HOSTILE = ("none", "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "`{{7*7}}`</code>")


# ---- in words -------------------------------------------------------------------------------------------


def test_labels_in_the_scatter_do_not_overlap() -> None:
    error = {"mean": 0.05, "low": 0.04, "high": 0.06}
    rows: Any = [{"attention": f"a{i}", "error": error, "flops": 100} for i in range(8)]
    points = charts.scatter("flops", "FLOPs", rows, [r["attention"] for r in rows])["points"]
    heights = sorted(point["label"][1] for point in points)
    assert min(b - a for a, b in pairwise(heights)) > 17.9


def test_curves_leave_out_what_is_not_finite() -> None:
    curve = {"epoch": [1.0, 2.0], "val_error": [0.5, float("nan")], "train_loss": [None, None]}
    run: Any = {"attention": "se", "curves": curve}
    chart = charts.curves("Validation error", "val_error", [run], ["se"], "%")
    assert chart is not None
    assert [point[2] for point in chart["lines"][0]["points"]] == [50]
    assert charts.curves("Training loss", "train_loss", [run], ["se"]) is None


def test_selected_images_are_mixed_and_disputed_ones_come_first() -> None:
    target = np.arange(40) % 2 == 0
    right = np.ones((4, 40), bool)
    right[0, :10] = False  # disputed
    right[:, 10:14] = False  # missed by all
    chosen = gallery.select(target.astype(int), right, target)
    assert len(chosen) == gallery.MAX_IMAGES
    assert len(set(chosen)) == gallery.MAX_IMAGES
    assert sum(target[chosen]) == gallery.MAX_IMAGES / 2
    assert set(chosen[:4]) <= set(range(10))
    assert any(10 <= k < 14 for k in chosen)
    assert any(k >= 14 for k in chosen)
    assert gallery.select(np.zeros(3), np.ones((1, 3), bool), None) == [0, 1, 2]


# ---- files ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make(tmp_path_factory.mktemp("report") / "comparison")
    write_report(out)
    return out


def copy(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a comparison with its results changed."""
    shutil.copytree(folder, to)
    results = json.loads((to / "results.json").read_text())
    change(results)
    (to / "results.json").write_text(json.dumps(results))
    return to


def test_page_is_one_file_of_moderate_size(folder: Path) -> None:
    assert (folder / "report.html").stat().st_size < 6e6
    assert not list(folder.glob(".report*"))


def test_page_appears_by_rename(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = copy(folder, tmp_path / "out", lambda _: None)
    (out / "report.html").write_text("old")
    seen = []

    def replace(source: Path, target: Path) -> None:
        seen.append((source.parent, target.read_text(), source.read_text().endswith("</html>")))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with raises(BadRun) as raised:
        write_report(out)
    assert "No space left on device" in str(raised.value)
    assert seen == [(out, "old", True)]
    assert (out / "report.html").read_text() == "old"
    assert not list(out.glob(".report*"))


def test_results_that_are_missing(tmp_path: Path) -> None:
    with raises(BadRun, owner=str(tmp_path), option="results.json"):
        write_report(tmp_path)


def test_galleries_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    out = copy(folder, tmp_path / "out", lambda _: None)
    path = out / "runs/1-seed0/gallery.npz"
    arrays = dict(np.load(path))
    np.savez(path, allow_pickle=False, **(arrays | {"images": arrays["images"][::-1]}))
    with raises(BadRun, owner=str(path), option="images"):
        write_report(out)
    np.savez(path, allow_pickle=False, **{name: a for name, a in arrays.items() if name != "masks"})
    with raises(BadRun, owner=str(path), option="masks"):
        write_report(out)
    arrays.pop("kind")
    np.savez(path, allow_pickle=False, **arrays)
    with raises(BadRun, owner=str(path), option="kind"):
        write_report(out)
    path.write_bytes(b"PK\3\4")
    with raises(BadRun, owner=str(path)):
        write_report(out)


# ---- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


Opener = Callable[..., Page]


@pytest.fixture
def show(browser: Browser) -> Iterator[Opener]:
    """Open reports; at the end, none may have said anything, asked for anything or opened a dialog."""
    said: list[str] = []
    requested: list[str] = []
    own: set[str] = set()
    contexts: list[BrowserContext] = []

    def dismiss(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    def opener(folder: Path, width: int = 1280, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        url = (folder / "report.html").as_uri()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", dismiss)
        page.on("request", lambda request: requested.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        own.add(url)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in requested if not url.startswith("data:")} == own


def names(page: Page) -> list[str]:
    found: list[str] = page.locator(".board tbody th").evaluate_all("all => all.map(th => th.dataset.value)")
    return found


def tile(page: Page, attention: int, image: int = 0) -> Locator:
    return page.locator(f'[data-image="{image}"] .tile[data-column="{attention}"]')


def click(page: Page, attention: int, y: float, x: float, image: int = 0) -> None:
    """Click a tile at these fractions of its height and width."""
    target = tile(page, attention, image)
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    target.click(position={"x": x * box["width"], "y": y * box["height"]})


def pixels(page: Page, attention: int, image: int = 0) -> str:
    """What a tile shows: its heat map and its marks."""
    drawn: str = tile(page, attention, image).evaluate(
        "tile => tile.querySelector('canvas').toDataURL() + tile.querySelector('svg').innerHTML"
    )
    return drawn


def column(folder: Path, attention: str) -> int:
    """The place of an attention in the leaderboard, and so in the gallery."""
    return [row["attention"] for row in read_comparison(folder)["leaderboard"]].index(attention)


def shown(folder: Path, place: int) -> tuple[Any, NDArray[np.bool_]]:
    """The map of one column for the first image that the page shows, and the mask of this image."""
    sources = gallery.read_sources(folder, read_comparison(folder))
    image = gallery.select_from(sources)[:1]
    found = sources[place].gallery
    assert found.map is not None
    assert found.masks is not None
    return select_images(found.map, image), found.masks[image[0]].numpy()


def test_sorts_by_click_and_by_keyboard(folder: Path, show: Opener) -> None:
    page = show(folder)
    error, precision, difference = (
        page.locator(f'th:has([data-key="{k}"])') for k in ("error", "precision", "difference")
    )
    first = names(page)
    assert first[-1] == "none"
    expect(error).to_have_attribute("aria-sort", "ascending")
    error.get_by_role("button").click()
    expect(error).to_have_attribute("aria-sort", "descending")
    assert names(page) == first[::-1]
    precision.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(precision).to_have_attribute("aria-sort", "descending")
    expect(error).to_have_attribute("aria-sort", "none")
    assert names(page)[-2:] == ["se", "none"]
    page.keyboard.press("Space")
    expect(precision).to_have_attribute("aria-sort", "ascending")
    assert (names(page)[0], names(page)[-1]) == ("se", "none")  # what has no value stays last
    difference.get_by_role("button").click()
    assert names(page) == first


def test_click_shows_where_a_position_attends(folder: Path, show: Opener) -> None:
    page = show(folder)
    place = column(folder, MULTI_HEAD)
    layer = page.evaluate("c => saccade.columns[c].layer", place)
    before = [pixels(page, i) for i in range(5)]
    click(page, place, 0.6, 0.4)

    pairs, mask = shown(folder, place)
    assert isinstance(pairs, PairwiseMap)
    assert mask.any()
    y, x = int(0.6 * 24), int(0.4 * 24)
    for head in (None, 2):
        row = page.evaluate("([l, q, h]) => [...saccade.row(l, 0, q, h)]", [layer, y * 24 + x, head])
        exact = pairs.attention_from(y=y, x=x, head=head)[0].flatten()
        np.testing.assert_allclose(row, exact, rtol=1e-4, atol=1e-7)

    mean = pairs.attention_from(y=y, x=x)[0].double().numpy()
    top = int(mean.argmax())
    state = page.locator("[data-state]")
    share = (mean * mask.reshape(24, 4, 24, 4).mean((1, 3))).sum()
    times = page.evaluate("v => Number(v.toPrecision(2)).toString()", mean.max() / mean.mean())
    expect(state).to_contain_text(
        f"Image 1, {MULTI_HEAD}: y={y}, x={x} attends most to y={top // 24}, x={top % 24} "
        f"of 24 \N{MULTIPLICATION SIGN} 24: weight {mean.max():.3g}"
    )
    expect(state).to_contain_text(f"{times} times the mean (mean of 4 heads); ")
    expect(state).to_contain_text(f"; {100 * share:.0f}% of the weight is on the target.")
    after = [pixels(page, i) for i in range(5)]
    changed = [a != b for a, b in zip(before, after, strict=True)]
    board = read_comparison(folder)["leaderboard"]
    assert changed == [row["attention"].startswith("multi_head") for row in board]
    page.keyboard.press("Escape")
    expect(state).to_have_text("Select a position in a map.")
    assert [pixels(page, i) for i in range(5)] == before


def test_arrow_keys_move_the_query_and_heads_can_be_chosen(folder: Path, show: Opener) -> None:
    page = show(folder)
    place = column(folder, CONVOLVED)
    state, reset = page.locator("[data-state]"), page.locator("[data-reset]")
    mean = pixels(page, place, 1)
    tile(page, place, 1).focus()
    page.keyboard.press("Enter")
    expect(state).to_contain_text(f"Image 2, {CONVOLVED}: y=12, x=12 attends")
    for key in ("ArrowUp", "ArrowRight", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    expect(state).to_contain_text("y=11, x=9 attends")
    selected = pixels(page, place, 1)
    page.get_by_label(f"Head of {CONVOLVED}").select_option(label="head 1")
    expect(state).to_contain_text("(head 1)")
    assert pixels(page, place, 1) not in (selected, mean)
    expect(reset).to_be_enabled()
    reset.click()
    expect(state).to_have_text(f"Select a position in a map. {CONVOLVED}: head 1.")
    expect(reset).to_be_disabled()
    assert pixels(page, place, 1) not in (selected, mean)
    page.get_by_label(f"Head of {CONVOLVED}").select_option("")
    assert pixels(page, place, 1) == mean


def test_filters_and_controls_of_the_gallery(folder: Path, show: Opener) -> None:
    page = show(folder)
    shots = page.locator(".shots > li")
    expect(shots).to_have_count(gallery.MAX_IMAGES)
    visible = page.locator(".shots > li:not([hidden])")
    expect(visible).to_have_count(3)
    more = page.locator("[data-more]")
    expect(more).to_have_text(f"Show {gallery.MAX_IMAGES - 3} more")
    more.click()
    expect(visible).to_have_count(gallery.MAX_IMAGES)
    expect(more).to_be_hidden()
    for name, attribute, value in (
        ("wrong", "wrong", "true"),
        ("with", "target", "with"),
        ("without", "target", "without"),
    ):
        button = page.locator(f'[data-filter="{name}"]')
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(visible).to_have_count(int(button.locator("b").inner_text()))
        assert set(visible.evaluate_all(f"all => all.map(li => li.dataset.{attribute})")) == {value}
    page.locator('[data-filter="all"]').click()
    cbam = column(folder, "cbam")
    before = pixels(page, cbam, 1)
    page.get_by_label("Color map").select_option("viridis")
    assert pixels(page, cbam, 1) != before
    page.get_by_label("Opacity").fill("20")
    expect(tile(page, cbam, 1).locator("canvas")).to_have_css("opacity", "0.2")
    target = int(page.locator('[data-target="with"]').first.get_attribute("data-image") or 0)
    outlined = pixels(page, cbam, target)
    page.get_by_label("target outline").uncheck()
    assert pixels(page, cbam, target) != outlined


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_maps_are_drawn_in_their_place(folder: Path, show: Opener, attention: str) -> None:
    page = show(folder)
    place = column(folder, attention)
    canvas = tile(page, place).locator("canvas")
    page.get_by_label("smooth").uncheck()
    exact = shown(folder, place)[0].heatmap()[0].numpy()
    drawn = canvas.evaluate(
        "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    assert drawn[:2] == list(exact.shape)
    colors = overlay.palette("magma")[np.rint(255 * exact).astype(int)]
    found = np.reshape(drawn[2:], (*exact.shape, 4))[..., :3]
    assert np.abs(found - colors.astype(int)).max() <= 6  # one level of 256
    boxes = [tile(page, place).locator(part).bounding_box() for part in ("img", "canvas", "svg")]
    for box in boxes[1:]:
        assert box == pytest.approx(boxes[0], abs=0.1)


def test_charts_answer_to_legend_pointer_and_choice_of_cost(folder: Path, show: Opener) -> None:
    page = show(folder)
    se = column(folder, "se")
    toggle = page.locator(f'[data-toggle="{se}"]')
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "false")
    expect(page.locator(f'.line[data-attention="{se}"]').first).to_be_hidden()
    page.locator('[data-chart="0"] svg').hover()
    readout = page.locator('[data-chart="0"] .readout')
    expect(readout).to_contain_text("epoch")
    expect(readout.locator("div")).to_have_count(4)  # all but the one that is off
    page.get_by_label("Cost on the horizontal axis").select_option("latency_ms")
    expect(page.locator('[data-axis="latency_ms"]')).to_be_visible()
    expect(page.locator('[data-axis="flops"]')).to_be_hidden()
    for image in page.locator("svg[role=img]").all():
        for part in (image.get_attribute("aria-labelledby") or "").split():
            assert page.locator(f"#{part}").text_content()


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_page_never_scrolls_sideways(folder: Path, show: Opener, width: int) -> None:
    page = show(folder, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_mode_has_colors_of_its_own(folder: Path, show: Opener) -> None:
    script = """() => ['body', '.finding', '.chart', '.line path', '.badge.right'].map(selector => {
        const style = getComputedStyle(document.querySelector(selector));
        return [style.backgroundColor, style.color, style.stroke].join();
    })"""
    light, dark = (show(folder, color_scheme=scheme).evaluate(script) for scheme in ("light", "dark"))
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_scores_are_columns_and_charts_where_there_are_any(
    folder: Path, tmp_path: Path, show: Opener
) -> None:
    page = show(folder)
    assert page.locator('[data-key="faithfulness"], [data-key="spearman"], .panels').count() == 0
    out = make(tmp_path / "out", seeds=2, scored=True)
    write_report(out)
    rows = {
        row["attention"]: row["scores"]
        for row in json.loads((out / "results.json").read_text())["leaderboard"]
    }
    for width, scheme in ((375, "dark"), (1280, "light")):
        page = show(out, width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator(".panels figure")).to_have_count(len(ATTENTIONS))
    for key in ("faithfulness", "spearman"):
        page.locator(f'[data-key="{key}"]').click()
        worth = [(rows[n].get("attention") or rows[n]["grad_cam"])[key]["mean"] for n in names(page)]
        assert worth == sorted(worth, reverse=key == "faithfulness")
    place = column(out, MULTI_HEAD)
    cells = page.locator(f'.board tr:has([data-value="{MULTI_HEAD}"])')
    its = rows[MULTI_HEAD]
    expect(cells).to_contain_text(f"+{its['attention']['faithfulness']['mean']:.2f}")
    expect(cells).to_contain_text(f"Grad-CAM +{its['grad_cam']['faithfulness']['mean']:.2f}")
    figure = page.locator(".panels figure").nth(place)
    expect(figure).to_contain_text("attention, positive")
    expect(page.locator(".panels figure").nth(column(out, "none"))).to_contain_text("Grad-CAM, positive")
    expect(page.locator(".panels figure").nth(column(out, "cbam"))).to_contain_text("attention, negative")
    assert "at random 0.50" in (figure.locator("desc").text_content() or "")
    assert page.locator(".board .best").count() == 9
    for key, pick in (("faithfulness", max), ("spearman", min)):
        worth = [(its.get("attention") or its["grad_cam"])[key]["mean"] for its in rows.values()]
        expect(page.locator(f'.board .best[data-value="{pick(worth)}"]')).to_have_count(1)
    bottom, top = charts.SMALL.y
    for attention, sign in ((MULTI_HEAD, "positive"), ("cbam", "negative")):
        figure = page.locator(".panels figure").nth(column(out, attention))
        path = figure.locator(".line path").nth(0).get_attribute("d") or ""
        drawn = [float(point.split(",")[1]) for point in path.removeprefix("M").split("L")]
        runs: list[Any] = [r["scores"] for r in read_comparison(out)["runs"] if r["attention"] == attention]
        heights = np.mean([run["attention"][sign]["deletion_curve"] for run in runs], axis=0)
        np.testing.assert_allclose(drawn, bottom + (top - bottom) * heights, atol=0.01)


def test_scores_of_some_runs_alone_are_said_to_be(tmp_path: Path, show: Opener) -> None:
    def forget(results: dict[str, Any]) -> None:
        for run in results["runs"]:
            if run["seed"] or run["attention"] == "se":
                run["scores"] = None
        for row, joined in zip(results["leaderboard"], compute_leaderboard(results["runs"]), strict=True):
            row["scores"] = joined["scores"]

    out = copy(make(tmp_path / "made", seeds=2, scored=True), tmp_path / "out", forget)
    page = show(write_report(out).parent)
    expect(page.locator(".panels figure")).to_have_count(len(ATTENTIONS) - 1)
    expect(page.locator('.board tr:has([data-value="cbam"])')).to_contain_text("1 of 2 seeds")
    assert page.locator('.board tr:has([data-value="se"]) .absent').count() == 2


def test_hostile_names_are_inert(tmp_path: Path, show: Opener) -> None:
    def poison(results: dict[str, Any]) -> None:
        results["task"].update(
            name="</title><script>alert(3)</script>", classes=["</script><script>alert(4)//", "<b>"]
        )
        results["command"] = results["saccade"] = results["hardware"]["cpu"] = "<img src=x onerror=alert(5)>"
        results["recipe"] = {"</pre><script>alert(6)</script>": "<svg onload=alert(7)>"}

    out = copy(make(tmp_path / "made", HOSTILE, seeds=2, epochs=2), tmp_path / "out", poison)
    page = show(write_report(out).parent)
    assert sorted(names(page)) == sorted(HOSTILE)
    assert page.locator("script").count() == 2
    assert page.locator("img[onerror], svg[onload], figcaption b b").count() == 0
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>alert(3)</script>")
    expect(page.locator(".board")).to_contain_text("<script>alert(1)</script>")
    expect(page.locator(".legend")).to_contain_text("onerror=alert(2)")
    expect(page.locator(".legend")).to_contain_text("{{7*7}}")
    expect(page.locator(".badge").first).to_be_visible()


def test_a_script_that_slipped_through_would_not_run(folder: Path, tmp_path: Path, browser: Browser) -> None:
    html = (folder / "report.html").read_text()
    slipped = "<main><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    (tmp_path / "report.html").write_text(html.replace("<main>", slipped))
    with browser.new_page() as page:
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        assert page.title().startswith("white-patch: ")


VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "none only": (("none",), {"seeds": 2}, "Only none was run"),
    "one seed": (ATTENTIONS, {"seeds": 1}, "one seed gives no interval"),
    "one epoch, no masks": (ATTENTIONS, {"masks": False, "epochs": 1}, "better than none"),
    "no baseline": (("se", "cbam"), {"seeds": 2}, "whether attention helps is unknown"),
    "eight attentions": (
        (*ATTENTIONS[:3], "cbam", *(f"other{i}:k={i}" for i in range(4))),
        {},
        "better than none",
    ),
    "twelve attentions": (("none", *(f"other{i}" for i in range(11))), {"seeds": 2}, "none"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_comparisons(tmp_path: Path, show: Opener, variant: str) -> None:
    attentions, options, sentence = VARIANTS[variant]
    out = make(tmp_path / "out", attentions, **options)
    write_report(out)
    for width in (375, 1280):
        page = show(out, width)
        expect(page.locator(".finding")).to_contain_text(sentence)
        expect(page.locator(".board tbody tr")).to_have_count(len(attentions))
        expect(page.locator(".shots > li").first.locator("canvas")).to_have_count(len(attentions))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator('[data-key="precision"]').count() == (
            options.get("masks", True) and attentions != ("none",)
        )
        assert page.locator('[data-filter="with"]').count() == options.get("masks", True)


def test_the_places_of_an_attention_stand_below_its_name(tmp_path: Path, show: Opener) -> None:
    out = make(tmp_path / "out", ("none", "se@layer1", "bam:reduction=4,dilation=2@layer1+layer3.0"), seeds=2)
    write_report(out)
    page = show(out)
    expect(page.locator(".board .name")).to_have_text(["se", "bam", "none"])
    its = page.locator(".board .options")
    expect(its).to_have_text(["at layer1", "reduction=4, dilation=2", "at layer1, layer3.0"])


def test_galleries_that_are_missing(folder: Path, tmp_path: Path, show: Opener) -> None:
    out = copy(folder, tmp_path / "out", lambda _: None)
    (out / "runs/2-seed0/gallery.npz").unlink()  # another seed stands in
    for path in out.glob("runs/1-seed*/gallery.npz"):
        path.unlink()
    page = show(write_report(out).parent)
    expect(page.locator(".shots > li").first.locator("canvas")).to_have_count(4)
    expect(page.locator(".gallery")).to_contain_text("se: no gallery.")
    expect(page.locator(".gallery")).to_contain_text(f"{MULTI_HEAD} 1")
    for path in out.glob("runs/*/gallery.npz"):
        path.unlink()
    page = show(write_report(out).parent)
    expect(page.locator(".gallery")).to_contain_text("No run of this comparison has a gallery.")


def test_factors_that_do_not_fit_are_left_out_and_said_to_be(
    folder: Path, tmp_path: Path, show: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gallery, "_FACTOR_BYTES", 2 * 5 * 2 * 4 * 576 * 8 * 2
    )  # five images of two attentions
    out = copy(folder, tmp_path / "out", lambda _: None)
    page = show(write_report(out).parent)
    expect(page.locator(".columns")).to_contain_text("positions can be selected in the first 5 images")
    expect(page.locator(".tile[data-rows]")).to_have_count(2 * 5)
