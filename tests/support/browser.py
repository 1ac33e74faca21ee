"""A browser for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_SWITCHES = (
    "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Launch Chromium; fail with a sentence where there is none."""
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", playwright.chromium.executable_path)
        path = next(filter(None, map(shutil.which, names)), None)
        if path is None:
            pytest.fail(
                "the tests of pages need Chromium: apt-get install chromium, or playwright install chromium"
            )
        arguments = [f"--{switch}" for switch in _SWITCHES.split()]
        with playwright.chromium.launch(executable_path=path, args=arguments) as launched:
            yield launched
