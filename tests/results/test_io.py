"""Files: what is written is read again, and what cannot be used is named by file and field."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import BadRun
from saccade.results import (
    COMPARISON,
    LEADERBOARD,
    read_comparison,
    read_run_info,
    read_run_result,
    write_comparison,
    write_run_result,
)
from support.errors import raises
from support.report_fixture import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("io") / "comparison", ("none", "se", "cbam"), seeds=2, scored=True)


def test_a_comparison_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    results = read_comparison(folder)
    errors = [row["error"]["mean"] for row in results["leaderboard"]]
    assert errors == sorted(errors)
    write_comparison(tmp_path, results)
    assert read_comparison(tmp_path) == results
    with (tmp_path / LEADERBOARD).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["attention"] for row in rows] == [row["attention"] for row in results["leaderboard"]]
    none, others = rows[-1], rows[:-1]
    assert (none["attention"], none["difference_mean"]) == ("none", "")
    for row, flat in zip(results["leaderboard"], others, strict=False):
        assert row["difference"]
        assert float(flat["difference_mean"]) == row["difference"]["mean"]
        assert flat["localization_polarity"] in ("positive", "negative")
        assert row["scores"]
        assert float(flat["scores_attention_ssim_mean"]) == row["scores"]["attention"]["ssim"]["mean"]


def test_a_run_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    results = read_comparison(folder)
    result: Any = {**results["runs"][0], "schema": 2, "task": results["task"]}
    del result["folder"]
    write_run_result(tmp_path, result)
    assert read_run_result(tmp_path) == result
    result["error"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_run_result(tmp_path, result)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda r: r.update(schema=1), "schema", 1),
        (lambda r: r.pop("schema"), "schema", 1),
        (lambda r: r.update(schema=3), "schema", 3),
        (lambda r: r.update(schema="2"), "schema", "2"),
        (lambda r: r.pop("runs"), "runs", None),
        (lambda r: r["leaderboard"][1].pop("flops"), "leaderboard[1].flops", None),
        (lambda r: r["task"].update(classes="two"), "task.classes", "two"),
        (lambda r: r["task"].update(classes=["a", 2]), "task.classes[1]", 2),
        (lambda r: r["task"].update(train=True), "task.train", True),
        (lambda r: r["leaderboard"][0].update(error=None), "leaderboard[0].error", None),
        (lambda r: r["leaderboard"][0]["error"].update(low="0"), "leaderboard[0].error.low", "0"),
        (lambda r: r["leaderboard"].clear(), "leaderboard", []),
        (lambda r: r["runs"].clear(), "runs", []),
        (lambda r: r["runs"][0].update(scores={}), "runs[0].scores.images", None),
        (lambda r: r["runs"][0]["curves"].update(epoch=["a"]), "runs[0].curves.epoch[0]", "a"),
        (
            lambda r: r["leaderboard"][1]["localization"].update(polarity="bright"),
            "leaderboard[1].localization.polarity",
            "bright",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_field(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], field: str, value: object
) -> None:
    results = json.loads((folder / COMPARISON).read_text())
    change(results)
    path = tmp_path / COMPARISON
    path.write_text(json.dumps(results))
    with raises(BadRun, owner=str(path), option=field, value=value):
        read_comparison(tmp_path)


def test_a_file_that_is_missing_or_no_json(tmp_path: Path) -> None:
    for read, name in (
        (read_comparison, "results.json"),
        (read_run_result, "result.json"),
        (read_run_info, "run.json"),
    ):
        with raises(BadRun, owner=str(tmp_path), option=name):
            read(tmp_path)
        (tmp_path / name).write_text("{")
        with raises(BadRun, owner=str(tmp_path / name)):
            read(tmp_path)
        (tmp_path / name).write_text("[]")
        with raises(BadRun, owner=str(tmp_path / name), value=[]):
            read(tmp_path)
