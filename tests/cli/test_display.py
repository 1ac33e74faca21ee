"""Tables of the terminal: nothing is cut at 80 columns, and intervals go from low to high."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from saccade.cli.display import leaderboard_table, scores_table
from saccade.results import read_comparison
from support.report_fixture import make


@pytest.mark.parametrize("scored", [False, True])
def test_the_leaderboard_fits_into_80_columns(tmp_path: Path, scored: bool) -> None:
    rows = read_comparison(make(tmp_path, ("none", "se", "cbam"), seeds=2, scored=scored))["leaderboard"]
    console = Console(width=80, record=True)
    console.print(leaderboard_table("white-patch", rows))
    text = console.export_text()
    assert "…" not in text
    assert "±" not in text
    assert [line.split()[0] for line in text.splitlines() if line[:4] in ("none", "se  ", "cbam")] == [
        row["attention"] for row in rows
    ]
    for row in rows:
        low, high = row["error"]["low"], row["error"]["high"]
        assert low is not None
        assert high is not None
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in text
    assert ("faithful" in text) == scored


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    rows = read_comparison(make(tmp_path, ("none", "se"), seeds=1))["leaderboard"]
    console = Console(width=80, record=True)
    console.print(leaderboard_table("white-patch", rows))
    assert "[" not in console.export_text()


def test_every_map_has_its_scores(tmp_path: Path) -> None:
    rows = read_comparison(make(tmp_path, ("none", "cbam"), seeds=2, scored=True))["leaderboard"]
    console = Console(width=80, record=True)
    console.print(scores_table(rows))
    text = console.export_text()
    assert text.count("Grad-CAM, ") == 2
    assert text.count("attention, negative") == 1


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
@pytest.mark.parametrize("scored", [False, True])
def test_names_are_shown_at_every_width(width: int, scored: bool, tmp_path: Path) -> None:
    attentions = ("none", "se", "multi_head:heads=1,projection=conv1d")
    rows = read_comparison(make(tmp_path, attentions, seeds=2, scored=scored))["leaderboard"]
    console = Console(width=width, record=True)
    console.print(leaderboard_table("white-patch", rows, width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    names = "".join(line.split(" ")[0] for line in text.splitlines())  # long ones are folded
    for attention in attentions:
        assert attention in names, text
    assert "error %" in text
