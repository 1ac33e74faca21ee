"""The page of results: written from the result files, all of them, as they are."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import results  # noqa: E402  (a script beside the package)


def test_the_page_is_what_the_files_say() -> None:
    assert results.PAGE.read_text() == results.page(), "docs/results.md is old: python docs/results.py"


def test_every_result_file_has_a_section() -> None:
    assert {path.stem for path in results.FILES.glob("*.json")} == set(results.SECTIONS)


@pytest.mark.parametrize("name", results.SECTIONS)
def test_a_section_follows_its_file(name: str) -> None:
    result = json.loads((results.FILES / f"{name}.json").read_text())
    _, section = results.SECTIONS[name]
    changed = _scaled(copy.deepcopy(result))
    assert section(changed) != section(result)


def test_differences_are_told_from_chance_together_and_alone() -> None:
    assert "real at 5%: `c`; looked at alone, also `a` would" in results.said(
        {"a": 0.03, "b": 0.3, "c": 0.001}
    )
    assert results.said({"a": 0.03, "b": 0.3}).endswith("told from chance; looked at alone, `a` could.")
    assert results.said({"a": 0.1}).endswith("none can be told from chance.")
    chance = results.chance_of([0.1, 0.2, 0.3], [0.0, 0.12, 0.19])
    assert chance == pytest.approx(stats.ttest_rel([0.1, 0.2, 0.3], [0.0, 0.12, 0.19]).pvalue)


def test_attention_between_positions_fits_into_500_mb() -> None:
    rows = json.loads((results.FILES / "pairwise-cpu.json").read_text())["rows"]
    largest = [row for row in rows if row["side"] == 128]
    assert len(largest) == 9
    assert max(row["ours"]["megabytes"] for row in largest) < 500


def _scaled(value: Any) -> Any:
    """Return a result with all its fractions changed."""
    if isinstance(value, dict):
        return {key: _scaled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_scaled(item) for item in value]
    return 2 * value + 1 if isinstance(value, float) else value
