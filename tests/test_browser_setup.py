"""`make browser`: find Chromium, install it, or say what to do, before any test runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHELL = ("sh", "dirname", "id")  # what the script itself needs
PYTHON = """#!/bin/sh
# Stands in for Python: `tests/support/browser.py` finds a browser in {folder}; downloads fail.
case "$1" in
  -c) [ ! -e {folder}/without_playwright ] ;;
  tests/support/browser.py) [ -e {folder}/chromium ] && echo "browser: {folder}/chromium" ;;
  *) exit 1 ;;
esac
"""
INSTALLER = """#!/bin/sh
echo "$@" >> {folder}/calls
for word; do [ "$word" != {verb} ] || : > {folder}/chromium; done
"""


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def set_up(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script with the programs in a folder, and no others, on PATH."""
    for name in SHELL:
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    executable(folder / "python", PYTHON.format(folder=folder))
    command = [folder / "sh", ROOT / "tests/support/install_browser.sh", folder / "python"]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True)


def test_a_browser_that_is_there_is_used(tmp_path: Path) -> None:
    executable(tmp_path / "chromium", "")
    executable(tmp_path / "apt-get", INSTALLER.format(folder=tmp_path, verb="install"))
    result = set_up(tmp_path)
    assert (result.returncode, result.stdout) == (0, f"browser: {tmp_path}/chromium\n")
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("manager", "verb"), [("apt-get", "install"), ("dnf", "install"), ("apk", "add"), ("brew", "install")]
)
def test_the_package_manager_of_the_system_installs_it(manager: str, verb: str, tmp_path: Path) -> None:
    executable(tmp_path / manager, INSTALLER.format(folder=tmp_path, verb=verb))
    executable(tmp_path / "sudo", '#!/bin/sh\nexec "$@"\n')
    result = set_up(tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"browser: {tmp_path}/chromium"
    assert "chromium" in (tmp_path / "calls").read_text()


def test_without_any_way_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    result = set_up(tmp_path)
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert "put chromium or google-chrome on PATH" in sentence


def test_a_python_without_playwright_installs_nothing(tmp_path: Path) -> None:
    executable(tmp_path / "apt-get", INSTALLER.format(folder=tmp_path, verb="install"))
    (tmp_path / "without_playwright").touch()
    result = set_up(tmp_path)
    assert result.returncode == 1
    assert "run make install" in result.stderr
    assert not (tmp_path / "calls").exists()


def test_the_tests_start_after_the_browser_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntest: install browser lint\n" in makefile
    assert "\ncoverage: install browser\n" in makefile
