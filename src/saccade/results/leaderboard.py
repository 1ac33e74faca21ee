"""The leaderboard: means over seeds with 95% intervals, paired differences, costs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

Result = dict[str, Any]  # a run's result.json
Row = dict[str, Any]  # an entry of results.json's leaderboard
_MEASURES = ("pointing", "energy", "precision")


def interval(values: Sequence[float], least: float = -1.0) -> dict[str, float | None]:
    """Return mean and 95% confidence interval (Student's t over seeds), cut to what a share, from `least`
    to 1, can be. Of one value there is the mean alone.

    >>> interval([0.5])
    {'mean': 0.5, 'low': None, 'high': None}
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": max(mean - reach, least), "high": min(mean + reach, 1.0)}


def p_value(differences: Sequence[float]) -> float | None:
    """Return how likely the mean would be as far from 0 by chance (Student's t, two-sided).

    None of one value.

    >>> round(p_value([0.01, 0.02, 0.03]), 3), p_value([0.0, 0.0]), p_value([0.5])
    (0.074, 1.0, None)
    """
    count = len(differences)
    if count < 2:
        return None
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if not spread:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / spread * count**0.5, count - 1))


def leaderboard(results: Sequence[Result]) -> list[Row]:
    """Return one row per attention, in the order of first appearance.

    The difference to "none" is paired: it is taken seed by seed, where both have been run.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["attention"], []).append(result)
    plain = {result["seed"]: result["error"] for result in groups.get("none", [])}
    return [_row(attention, runs, plain) for attention, runs in groups.items()]


def _row(attention: str, runs: Sequence[Result], plain: dict[int, float]) -> Row:
    where = _localization([run["localization"] for run in runs if run["localization"]])
    paired = [run["error"] - plain[run["seed"]] for run in runs if run["seed"] in plain]
    return {
        "attention": attention,
        "seeds": len(runs),
        "error": interval([run["error"] for run in runs], least=0.0),
        "difference": interval(paired) if paired and attention != "none" else None,
        "p_value": p_value(paired) if attention != "none" else None,
        "localization": where,
        "scores": _scores([run["scores"] for run in runs if run.get("scores")], where),
        "parameters": runs[0]["parameters"],
        "flops": runs[0]["flops"],
        "latency_ms": statistics.median(run["latency_ms"] for run in runs),
        "train_seconds": statistics.median(run["train_seconds"] for run in runs),
    }


def _localization(scores: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Join the scores of the runs under the sign that finds the target better on average."""
    if not scores:
        return None
    mean = {sign: statistics.fmean(s[sign]["precision"] for s in scores) for sign in ("positive", "negative")}
    sign = "positive" if mean["positive"] >= mean["negative"] else "negative"
    agree = sum(
        (s["positive"]["precision"] >= s["negative"]["precision"]) == (sign == "positive") for s in scores
    )
    return {
        "polarity": sign,
        "agree": agree,
        "chance": statistics.fmean(s["chance"] for s in scores),
        **{measure: interval([s[sign][measure] for s in scores], least=0.0) for measure in _MEASURES},
    }


def _scores(scores: Sequence[dict[str, Any]], where: dict[str, Any] | None) -> dict[str, Any] | None:
    """Join the scores of the runs that have them, for the attention and for Grad-CAM.

    A map counts under the sign under which it finds the target, the attention's being that of its row;
    where no target is known, under the sign under which it is more faithful.
    """
    if not scores:
        return None
    rows: dict[str, Any] = {}
    for name in ("attention", "grad_cam"):
        maps = [its[name] for its in scores if name in its]
        if not maps:
            continue
        found = _localization([its["localization"] for its in maps if its["localization"]])
        gain = {
            sign: statistics.fmean(its[sign]["auc_gain"] for its in maps) for sign in ("positive", "negative")
        }
        best = "positive" if gain["positive"] >= gain["negative"] else "negative"
        place = where if name == "attention" and where else found
        sign = place["polarity"] if place else best
        rows[name] = {
            "runs": len(maps),
            "polarity": sign,
            "faithfulness": interval([its[sign]["auc_gain"] for its in maps]),
            "deletion": interval([its[sign]["deletion"] for its in maps], least=0.0),
            "insertion": interval([its[sign]["insertion"] for its in maps], least=0.0),
            "spearman": interval([its["sanity"]["spearman"] for its in maps], least=0.0),
            "ssim": interval([its["sanity"]["ssim"] for its in maps]),
            "precision": interval([its["localization"][sign]["precision"] for its in maps], least=0.0)
            if found
            else None,
        }
    return rows


def to_csv(rows: Sequence[Row]) -> str:
    """Return the leaderboard as a table; an interval becomes three columns."""
    flat = [dict(_flatten(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flatten(row: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in row.items():
        if isinstance(value, dict):
            pairs += _flatten(value, f"{prefix}{key}_")
        elif value is not None or prefix:
            pairs.append((f"{prefix}{key}", value))
    return pairs
