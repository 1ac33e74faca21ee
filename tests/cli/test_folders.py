"""Default folders never hold two recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.cli.folders import comparison_folder, run_folder
from saccade.config import Comparison, Recipe


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_runs_of_other_recipes_get_a_number() -> None:
    first, second = Recipe(attention="se"), Recipe(attention="se", epochs=9)
    assert run_folder(first) == Path("runs/white-patch-se-seed0")
    first.write(run_folder(first) / "recipe.yaml")
    assert run_folder(first) == Path("runs/white-patch-se-seed0")
    assert run_folder(second) == Path("runs/white-patch-se-seed0-2")
    second.write(run_folder(second) / "recipe.yaml")
    assert run_folder(Recipe(attention="se", epochs=7)) == Path("runs/white-patch-se-seed0-3")


def test_a_folder_of_something_else_is_left_alone() -> None:
    Path("runs/white-patch").mkdir(parents=True)
    comparison = Comparison(("none",), 1, Recipe())
    assert comparison_folder(comparison) == Path("runs/white-patch-2")


def test_a_comparison_that_is_extended_keeps_its_folder() -> None:
    comparison = Comparison(("none", "se"), 2, Recipe())
    comparison.write(comparison_folder(comparison) / "recipe.yaml")
    assert comparison_folder(Comparison(("none", "se", "cbam"), 3, Recipe())) == Path("runs/white-patch")
    assert comparison_folder(Comparison(("none",), 2, Recipe())) == Path("runs/white-patch-2")


def test_names_fit_a_file_system() -> None:
    long = "se:" + "x" * 3000
    assert len(run_folder(Recipe(attention=long)).name) < 255
    assert run_folder(Recipe(attention=long)) != run_folder(Recipe(attention=f"{long}y"))
