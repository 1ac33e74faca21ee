"""Cells of the leaderboard: quantities as text, the best value of each column, intervals as strips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from saccade.results import BASELINE, ComparisonResults, Interval, JoinedLocalization, Row, is_weak, main_map


def count(value: float) -> str:
    """Format a large count with three digits and a unit.

    Example:
        >>> count(870), count(11_180_000), count(1_824_000_000)
        ('870', '11.2 M', '1.82 G')
    """
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(scaled) + 0.001))}f} {unit}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit.

    Example:
        >>> duration(4.2), duration(75), duration(8000)
        ('4.2 s', '1 min 15 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def best(results: ComparisonResults) -> dict[str, float]:
    """Return the best value of each column that can be ranked; nothing for a single row."""
    rows = results["leaderboard"]
    if len(rows) == 1:
        return {}
    costs = ("parameters", "flops", "latency_ms", "train_seconds")
    values: dict[str, float] = {
        key: min(cast(Mapping[str, float], row)[key] for row in rows) for key in costs
    }
    values["error"] = min(row["error"]["mean"] for row in rows)
    if localized := [row["localization"] for row in rows if row["localization"]]:
        values["precision"] = max(score["precision"]["mean"] for score in localized)
        values["pointing"] = max(score["pointing"]["mean"] for score in localized)
    for key in ("dice", "boundary_f1"):
        if scored := [
            cast(Mapping[str, Interval], row["segmentation"]) for row in rows if "segmentation" in row
        ]:
            values[key] = max(score[key]["mean"] for score in scored)
    if maps := [scores for row in rows if (scores := main_map(row))]:
        values["faithfulness"] = max(scores["faithfulness"]["mean"] for scores in maps)
        values["spearman"] = min(scores["spearman"]["mean"] for scores in maps)
    return values


def strips(results: ComparisonResults) -> list[dict[str, Any]]:
    """Return the error and the difference of each row as strips, in units from 0 to 100."""
    rows, runs = results["leaderboard"], results["runs"]
    errors = [row["error"] for row in rows]
    differences = [row["difference"] for row in rows if row["difference"]]
    seeds = [[run["error"] for run in runs if run["attention"] == row["attention"]] for row in rows]
    top = max([0.0, *(bounds(error)[1] for error in errors), *(e for group in seeds for e in group)]) or 1.0
    low = min([0.0, *(bounds(difference)[0] for difference in differences)])
    high = max([0.0, *(bounds(difference)[1] for difference in differences)])
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

    first, last = bounds(interval)
    return {"low": place(first), "mean": place(interval["mean"]), "high": place(last), "zero": place(0.0)}


def bounds(interval: Interval) -> tuple[float, float]:
    """Return both ends of an interval; the mean twice if there is a single value."""
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    return (mean, mean) if low is None or high is None else (low, high)


def pointing_words(localization: JoinedLocalization) -> str:
    """Say in words how a map marks the target.

    Example:
        >>> one = {"mean": 0.7, "low": None, "high": None}
        >>> pointing_words({"polarity": "negative", "chance": 0.02, "precision": one})
        'low on the target'
    """
    if is_weak(localization):
        return "hardly points at the target"
    return "high on the target" if localization["polarity"] == "positive" else "low on the target"


def relative_costs(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the costs of each row as multiples of those of `none`, or of the cheapest row without it."""
    base = next((row for row in rows if row["attention"] == BASELINE), None)
    least = base or min(rows, key=lambda row: row["flops"])
    keys: tuple[Literal["flops", "latency_ms", "parameters"], ...] = ("flops", "latency_ms", "parameters")
    return {
        "to": least["attention"],
        "ratios": [[row[key] / least[key] if least[key] else None for key in keys] for row in rows],
    }
