"""The study on real data in the page of the search is generated from its result file."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import one_study  # noqa: E402  (a script beside the package)

STUDY = json.loads(one_study.FILE.read_text())


def test_the_page_is_what_the_file_says() -> None:
    page = one_study.PAGE.read_text()
    assert page == one_study.updated(page, STUDY), "docs/search.md is old: python docs/one_study.py"


def test_the_section_follows_the_file() -> None:
    changed = copy.deepcopy(STUDY)
    changed["advice"]["sentence"] = "Another answer."
    changed["runs"] = changed["runs"][:3]
    section = one_study.section(changed)
    assert section.endswith("\n> Another answer.")
    assert ": 2 were tried, " in section
    for row in STUDY["leaderboard"]:
        assert f"| `{row['attention']}` | {100 * row['error']['mean']:.1f} [" in section
