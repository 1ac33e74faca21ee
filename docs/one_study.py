"""Generate the study on real data in docs/search.md from its result file.

python docs/one_study.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import results  # a script beside this one

PAGE = Path(__file__).parent / "search.md"
FILE = results.FILES / "search-cifar10.json"
BEGIN, END = "<!-- study: docs/one_study.py writes it -->", "<!-- end of the study -->"
_LEVELS = 3  # of a factor, from each end


def section(study: dict[str, Any]) -> str:
    """Return the section: the command, what was tried, the leaderboard, the factors and the answer."""
    recipe, task, machine = study["recipe"], study["task"], study["hardware"]
    candidates = [run for run in study["runs"] if run["attention"] != "none"]
    states = {name: sum(run["state"] == name for run in candidates) for name in ("complete", "stopped")}
    minutes = sum(run["seconds"] for run in study["runs"]) / 60
    rows = sorted(study["leaderboard"], key=lambda row: row["error"]["mean"])
    lines = [
        "```",
        study["command"],
        "```",
        "",
        f"The {recipe['backbone']} network on {task['train']:,} training, {task['validation']:,} validation "
        f"and {task['test']:,} test images, {recipe['epochs']} epochs. {study['candidates']} candidates are "
        f"within the limits, and {study['refused']} are not. The candidates took {minutes:.0f} minutes: "
        f"{len(candidates)} were tried, {states['complete']} to the end, and {states['stopped']} were "
        f"stopped. {machine['cpu']}, {machine['cores']} cores with much other work, one thread: alone, the "
        "search would have tried more. Its latencies are not comparable, and are left out.",
        *results.table(
            ["finalist", "test error %", "vs none", "parameters", "FLOPs"],
            (
                [
                    f"`{row['attention']}`",
                    results.interval(row["error"]),
                    results.interval(row["difference"]),
                    f"{row['parameters']:,}",
                    f"{row['flops']:,}",
                ]
                for row in rows
            ),
        ),
        "Validation error at the first rung, in points from the mean of all candidates, with the number of "
        "candidates:",
        "",
        *(f"- {factor}: {contributions(study, factor)}" for factor in ("mechanism", "place")),
        "",
        f"> {study['advice']['sentence']}",
    ]
    return "\n".join(lines)


def contributions(study: dict[str, Any], factor: str) -> str:
    """Return the best and the worst levels of a factor."""
    levels = [level for level in study["factors"] if level["factor"] == factor]

    def part(some: list[dict[str, Any]]) -> str:
        return ", ".join(
            f"`{level['level']}` {100 * level['difference']:+.1f} ({level['candidates']})" for level in some
        )

    if len(levels) <= 2 * _LEVELS:
        return part(levels)
    return f"{part(levels[:_LEVELS])}, ..., {part(levels[-_LEVELS:])}"


def updated(page: str, study: dict[str, Any]) -> str:
    """Return the page with the section of this study."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{section(study)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), json.loads(FILE.read_text())))
