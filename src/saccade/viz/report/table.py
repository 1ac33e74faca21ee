"""The leaderboard's marks: the best value of each column, and intervals as strips."""

from __future__ import annotations

from typing import Any

from saccade.viz.report.results import Interval, MapScores, Results, Row


def best(results: Results) -> dict[str, float]:
    """Return the best value of each column in which being best means something."""
    rows = results["leaderboard"]
    if len(rows) == 1:
        return {}
    values: dict[str, float] = {key: min(row[key] for row in rows) for key in ("parameters", "flops")}
    values |= {key: min(row[key] for row in rows) for key in ("latency_ms", "train_seconds")}
    values["error"] = min(row["error"]["mean"] for row in rows)
    found = [row["localization"] for row in rows if row["localization"]]
    if found:
        values["precision"] = max(where["precision"]["mean"] for where in found)
        values["pointing"] = max(where["pointing"]["mean"] for where in found)
    maps = [its for its in map(main_map, rows) if its]
    if maps:
        values["faithfulness"] = max(its["faithfulness"]["mean"] for its in maps)
        values["spearman"] = min(its["spearman"]["mean"] for its in maps)
    return values


def main_map(row: Row) -> MapScores | None:
    """Return the scores of the attention's map or, where there is none, of Grad-CAM's."""
    scores = row.get("scores") or {}
    return scores.get("attention") or scores.get("grad_cam")


def strips(results: Results) -> list[dict[str, Any]]:
    """Return, for each row of the leaderboard, its error and its difference as strips of 0 to 100 units."""
    rows, runs = results["leaderboard"], results["runs"]
    errors = [row["error"] for row in rows]
    differences = [row["difference"] for row in rows if row["difference"]]
    seeds = [[run["error"] for run in runs if run["attention"] == row["attention"]] for row in rows]
    top = max([0.0, *(_bounds(error)[1] for error in errors), *(e for group in seeds for e in group)]) or 1.0
    low = min([0.0, *(_bounds(difference)[0] for difference in differences)])
    high = max([0.0, *(_bounds(difference)[1] for difference in differences)])
    return [
        {
            "error": _strip(row["error"], 0.0, top) | {"seeds": [round(100 * e / top, 2) for e in group]},
            "difference": _strip(row["difference"], low, high if high > low else low + 1)
            if row["difference"]
            else None,
        }
        for row, group in zip(rows, seeds, strict=True)
    ]


def _strip(interval: Interval, low: float, high: float) -> dict[str, Any]:
    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    first, last = _bounds(interval)
    return {"low": place(first), "mean": place(interval["mean"]), "high": place(last), "zero": place(0.0)}


def _bounds(interval: Interval) -> tuple[float, float]:
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    return (mean, mean) if low is None or high is None else (low, high)
