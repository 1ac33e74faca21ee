"""Results of which some rows are measured again keep the others, and name a command that measures all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from rows import write_rows

NAMES = ["se", "split_attention", "cbam"]


def result(*names: str, cpu: str = "here") -> dict[str, Any]:
    rows = [{"mechanism": name, "value": len(names)} for name in names]
    command = f"bench --repeats 3 --only {' '.join(names)} --layout channels_last"
    return {"command": command, "hardware": {"cpu": cpu}, "rows": rows}


def test_rows_that_are_not_measured_stay(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_rows(path, result("cbam"), ["cbam"])
    write_rows(path, result("se"), NAMES)
    written = json.loads(path.read_text())
    assert [row["mechanism"] for row in written["rows"]] == ["se", "cbam"]
    assert "--only cbam" in written["command"]
    write_rows(path, result("se", "split_attention"), NAMES)
    written = json.loads(path.read_text())
    assert [(row["mechanism"], row["value"]) for row in written["rows"]] == [
        ("se", 2),
        ("split_attention", 2),
        ("cbam", 1),
    ]
    assert written["command"] == "bench --repeats 3 --layout channels_last"


def test_rows_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_rows(path, result("cbam"), ["cbam"])
    with pytest.raises(SystemExit, match="come from another machine"):
        write_rows(path, result("se", cpu="elsewhere"), NAMES)
