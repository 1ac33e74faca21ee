"""A browser for the page tests. `python tests/support/browser.py` prints its path, or fails without one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SWITCHES = (
    "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)


def find_browser(playwright: Playwright) -> str | None:
    """Return the path of the first Chromium that starts: on PATH, or installed by playwright."""
    paths = map(shutil.which, (*_NAMES, playwright.chromium.executable_path))
    return next((path for path in paths if path and _starts(path)), None)


def _starts(path: str) -> bool:
    """Whether it starts. A placeholder of a package manager, or a program without its libraries, does not."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def chromium() -> Iterator[Browser]:
    """Launch Chromium; fail with a sentence where there is none."""
    with sync_playwright() as playwright:
        path = find_browser(playwright)
        if path is None:
            pytest.fail("the page tests need Chromium: run make browser")
        arguments = [f"--{switch}" for switch in _SWITCHES.split()]
        with playwright.chromium.launch(executable_path=path, args=arguments) as launched:
            yield launched


if __name__ == "__main__":
    with sync_playwright() as driver:
        browser = find_browser(driver)
    if browser is None:
        sys.exit(1)
    sys.stdout.write(f"browser: {browser}\n")
