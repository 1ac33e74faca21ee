"""The page of what is supported is generated from its result file, which has a row for every mechanism."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import saccade as sc
from saccade import models

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import supported as page  # noqa: E402  (a script beside the package)

RESULT = json.loads(page.FILE.read_text())
LONG = ("cot", "criss_cross")  # with seven seconds each


def test_the_page_is_up_to_date() -> None:
    assert page.PAGE.read_text() == page.page(), "run python docs/supported.py"


def test_every_mechanism_and_model_has_a_row() -> None:
    rows = [row["name"] for row in RESULT["rows"]]
    assert rows == sorted(sc.mechanisms()), (
        "run python benchmarks/support_matrix.py NAME, then docs/supported.py"
    )
    built = {name for name in models.__all__ if isinstance(getattr(models, name), type)} - {"Trajectory"}
    assert {row["name"] for row in RESULT["models"]} == built


def test_every_drop_in_can_be_exported_for_any_size_with_its_maps() -> None:
    for row in RESULT["rows"]:
        if row["drop_in"]:
            assert all(isinstance(row[column], float) for column in page.FILES), row["name"]
            assert all(row[column] < 1e-4 for column in page.FILES), row["name"]


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")
@pytest.mark.parametrize(
    "name", ["se", "cbam", "multi_head", *(pytest.param(name, marks=pytest.mark.soak) for name in LONG)]
)
def test_the_file_agrees_with_an_export_of_today(name: str, tmp_path: Path) -> None:
    model = sc.create(name, 64)
    exported = sc.export(model, tmp_path / "model.onnx", torch.randn(2, 64, 16, 20), maps=True)
    assert exported.dynamic == ("batch", "height", "width")
    assert len(exported.errors) == 3
    assert exported.max_error < 1e-4


def test_a_reason_is_a_numbered_note() -> None:
    notes: dict[str, int] = {}
    assert [page.cell(value, notes) for value in (None, 2e-7, 0.0, 1, 2)] == [
        "yes",
        "2e-07",
        "0",
        "once",
        "2 times",
    ]
    assert [page.cell(reason, notes) for reason in ("samples", "fixed size", "samples")] == [
        "no [1]",
        "no [2]",
        "no [1]",
    ]
