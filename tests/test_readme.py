"""The README: its example runs, its table is what the result file says, its links lead somewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import readme  # noqa: E402  (a script beside the package)

TEXT = readme.README.read_text()


def test_the_example_runs_and_gives_what_it_says() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    lines = example.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines[:-1]), names)
    heat = eval(lines[-1], names)
    assert tuple(heat.shape) == (1, 224, 224)
    assert 0 <= heat.min() <= heat.max() <= 1


def test_the_table_is_generated_from_the_result() -> None:
    summary = json.loads(readme.RESULT.read_text())
    assert readme.renewed(TEXT, summary) == TEXT
    summary["leaderboard"][0]["error"]["mean"] += 0.1
    assert readme.renewed(TEXT, summary) != TEXT


def test_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert "docs/white-patch.jpg" in links
    assert not [link for link in links if not (ROOT / link).exists()]
