"""Result files of which only some mechanisms are measured again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saccade.files import write_json


def write_rows(path: Path, result: dict[str, Any], names: Sequence[str]) -> None:
    """Write a result. The rows of mechanisms that are not measured this time stay.

    The command of a file with all mechanisms is the one that measures all of them.

    Args:
        path: The file.
        result: The result, with rows that have a mechanism each.
        names: All mechanisms, in the order of the rows.

    Raises:
        SystemExit: Rows would stay that come from another machine.
    """
    rows = result["rows"]
    measured = {row["mechanism"] for row in rows}
    if measured < {*names}:
        known = json.loads(path.read_text())
        if known["hardware"] != result["hardware"]:
            raise SystemExit(f"not written: the other rows of {path.name} come from another machine")
        rows += [row for row in known["rows"] if row["mechanism"] not in measured]
        is_whole = {row["mechanism"] for row in rows} >= {*names}
        result["command"] = (
            re.sub(r" --only( [a-z]\w*)+", "", result["command"]) if is_whole else known["command"]
        )
        rows.sort(key=lambda row: names.index(row["mechanism"]))  # stable: the sizes stay in order
    write_json(path, result)
