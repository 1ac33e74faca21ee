"""The documentation site: it builds without a warning, is complete, and asks for nothing from elsewhere."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import saccade as sc
from support.browser import chromium

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("index", "get-started", "mechanisms/cbam", "python/saccade", "command-line", "notebooks/third_party")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in strict mode: a broken link or an unknown reference ends it.

    Notebooks are not executed here: tests/docs/test_notebooks.py runs them.
    """
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "EXECUTE_NOTEBOOKS": "false"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def test_every_mechanism_has_a_page(site: Path) -> None:
    for name in sc.mechanisms():
        page = (site / f"mechanisms/{name}.html").read_text()
        assert sc.spec(name).paper.url in page
        assert f'id="{sc.spec(name).module.__module__}.{sc.spec(name).module.__qualname__}"' in page


def test_every_public_name_is_described(site: Path) -> None:
    page = (site / "python/saccade.html").read_text()
    missing = [name for name in sc.__all__ if f"saccade.{name}" not in page]
    assert missing == []


def test_every_notebook_has_a_page(site: Path) -> None:
    scripts = [
        path for path in (ROOT / "examples").glob("*.py") if path.read_text().startswith("# %% [markdown]")
    ]
    assert len(scripts) == 6
    for script in scripts:
        page = (site / f"notebooks/{script.stem}.html").read_text()
        assert f'href="{script.stem}.ipynb"' in page
        assert (site / f"notebooks/{script.stem}.ipynb").is_file()


def test_measurements_of_a_mechanism_are_shown(site: Path) -> None:
    page = (site / "mechanisms/cbam.html").read_text()
    assert "cifar10-narrow" in page
    assert "white-patch" in page
    assert "Measured" not in (site / "mechanisms/tam.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 80
    for page in pages:
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?([^"\s>]+)|<link[^>]*>', page.read_text())
        assert [url for url in loaded if url.startswith(("http:", "https:", "//"))] == [], page


def test_the_search_finds_a_mechanism(address: str, browser: Browser) -> None:
    requested: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{address}/index.html")
    page.locator(".md-search__input").fill("coordinate")
    expect(page.locator(".md-search-result__item").first).to_be_visible(timeout=20_000)
    assert [url for url in requested if not url.startswith((address, "blob:", "data:"))] == []
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(name: str, address: str, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_the_guide_for_beginners_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/get-started.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "look.html").stat().st_size > 10_000
