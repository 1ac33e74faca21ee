"""The leaderboard: means over seeds with confidence intervals, paired differences, costs."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import saccade
from saccade.results import schema
from saccade.results.provenance import hardware_info
from saccade.results.statistics import confidence_interval, p_value, paired_differences


def summarize(recipe: Mapping[str, Any], results: Mapping[str, schema.RunResult]) -> schema.ComparisonResults:
    """Build the results of a comparison.

    Args:
        recipe: The recipe of the comparison.
        results: The result of each run by its folder, relative to the comparison.
    """
    runs = list(results.values())
    return {
        "schema": schema.SCHEMA,
        "saccade": saccade.__version__,
        "command": shlex.join(["saccade", *sys.argv[1:]]),
        "recipe": dict(recipe),
        "hardware": hardware_info(),
        "task": runs[0]["task"],
        "leaderboard": compute_leaderboard(runs),
        "runs": [comparison_run(result, folder) for folder, result in results.items()],
    }


def comparison_run(result: schema.RunResult, folder: str) -> schema.ComparisonRun:
    """Return the entry of a run in the results of its comparison."""
    measurements = {key: value for key, value in result.items() if key in schema.Run.__annotations__}
    return cast(schema.ComparisonRun, measurements | {"folder": folder})


def compute_leaderboard(runs: Sequence[schema.Run]) -> list[schema.Row]:
    """Compute one row per attention, in the order of first appearance.

    The difference to "none" is paired by seed. Errors of classification are multiples of 1 / images, if the
    runs hold their task: differences that vary less than this rounding count as varying by it.
    """
    groups: dict[str, list[schema.Run]] = {}
    for run in runs:
        groups.setdefault(run["attention"], []).append(run)
    baseline = {run["seed"]: run["error"] for run in groups.get(schema.BASELINE, [])}
    return [_row(attention, group, baseline) for attention, group in groups.items()]


def main_map(row: schema.Row) -> schema.JoinedMap | None:
    """Return the scores of the attention map or, without one, of Grad-CAM."""
    scores = row["scores"] or {}
    return scores.get("attention") or scores.get("grad_cam")


def better_polarity(localization: schema.MapLocalization) -> schema.Polarity:
    """Return the polarity under which a map has the higher average precision."""
    is_positive = localization["positive"]["precision"] >= localization["negative"]["precision"]
    return "positive" if is_positive else "negative"


def _row(attention: str, runs: Sequence[schema.Run], baseline: Mapping[int, float]) -> schema.Row:
    localization = _join_localization([run["localization"] for run in runs if run["localization"]])
    errors = {run["seed"]: run["error"] for run in runs}
    paired = [] if attention == schema.BASELINE else paired_differences(errors, baseline)
    step = _rounding(runs[0])
    row: schema.Row = {
        "attention": attention,
        "seeds": len(runs),
        "error": confidence_interval([run["error"] for run in runs], least=0.0),
        "difference": confidence_interval(paired, step=step) if paired else None,
        "p_value": p_value(paired, step),
        "localization": localization,
        "scores": _join_scores(runs, localization),
        "parameters": runs[0]["parameters"],
        "flops": runs[0]["flops"],
        "latency_ms": statistics.median(run["latency_ms"] for run in runs),
        "train_seconds": statistics.median(run["train_seconds"] for run in runs),
    }
    if scores := [run["segmentation"] for run in runs if "segmentation" in run]:
        row["segmentation"] = {
            "mean_iou": confidence_interval([score["mean_iou"] for score in scores], least=0.0),
            "dice": confidence_interval([score["dice"] for score in scores], least=0.0),
            "boundary_f1": confidence_interval([score["boundary_f1"] for score in scores], least=0.0),
        }
    return row


def _rounding(run: schema.Run) -> float:
    """Return the distance of two possible test errors; 0 for a segmentation, and if the task is not known."""
    images = cast(Mapping[str, Any], run).get("task", {}).get("test")
    return 0.0 if "segmentation" in run or not images else 1 / images


def _join_localization(scores: Sequence[schema.MapLocalization]) -> schema.JoinedLocalization | None:
    """Join the scores of the runs under the polarity with the higher mean precision."""
    if not scores:
        return None
    mean = {p: statistics.fmean(score[p]["precision"] for score in scores) for p in schema.POLARITIES}
    polarity = max(schema.POLARITIES, key=mean.__getitem__)
    return {
        "polarity": polarity,
        "agree": sum(better_polarity(score) == polarity for score in scores),
        "chance": statistics.fmean(score["chance"] for score in scores),
        "pointing": confidence_interval([score[polarity]["pointing"] for score in scores], least=0.0),
        "energy": confidence_interval([score[polarity]["energy"] for score in scores], least=0.0),
        "precision": confidence_interval([score[polarity]["precision"] for score in scores], least=0.0),
    }


def _join_scores(
    runs: Sequence[schema.Run], localization: schema.JoinedLocalization | None
) -> schema.JoinedScores | None:
    scores = [run["scores"] for run in runs if run["scores"]]
    if not scores:
        return None
    rows: schema.JoinedScores = {}
    if maps := [score["attention"] for score in scores if "attention" in score]:
        rows["attention"] = _join_maps(maps, localization)
    if maps := [score["grad_cam"] for score in scores if "grad_cam" in score]:
        rows["grad_cam"] = _join_maps(maps, None)
    return rows


def _join_maps(
    maps: Sequence[schema.RunMap], localization: schema.JoinedLocalization | None
) -> schema.JoinedMap:
    """Join the scores of one kind of map.

    The polarity is that of `localization`, else the one that localizes better on the scored images, else,
    without masks, the more faithful one.
    """
    localized = [m["localization"] for m in maps if m["localization"]]
    gain = {p: statistics.fmean(m[p]["auc_gain"] for m in maps) for p in schema.POLARITIES}
    joined = localization or _join_localization(localized)
    polarity = joined["polarity"] if joined else max(schema.POLARITIES, key=gain.__getitem__)
    precision = [score[polarity]["precision"] for score in localized]
    return {
        "runs": len(maps),
        "polarity": polarity,
        "faithfulness": confidence_interval([m[polarity]["auc_gain"] for m in maps]),
        "deletion": confidence_interval([m[polarity]["deletion"] for m in maps], least=0.0),
        "insertion": confidence_interval([m[polarity]["insertion"] for m in maps], least=0.0),
        "spearman": confidence_interval([m["sanity"]["spearman"] for m in maps], least=0.0),
        "ssim": confidence_interval([m["sanity"]["ssim"] for m in maps]),
        "precision": confidence_interval(precision, least=0.0) if precision else None,
    }
