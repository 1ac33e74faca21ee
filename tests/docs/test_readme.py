"""The README: its example runs, its table is what the result file says, its links lead somewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import readme  # noqa: E402  (a script beside the package)

TEXT = readme.README.read_text()


def test_the_example_runs_and_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    lines = example.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines[:-1]), names)
    heat = eval(lines[-1], names)
    assert tuple(heat.shape) == (2, 64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1
    assert "Where" in (tmp_path / "look.html").read_text()


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs/backbones.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "look.html").stat().st_size > 10_000
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", guide) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def test_the_table_is_generated_from_the_result() -> None:
    summary = json.loads(readme.RESULT.read_text())
    assert readme.updated(TEXT, summary) == TEXT
    summary["leaderboard"][0]["error"]["mean"] += 0.1
    assert readme.updated(TEXT, summary) != TEXT


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert "docs/white-patch.jpg" in links
    assert not [link for link in links if not (ROOT / link).exists()]
