"""Charts of the deletion and insertion curves: the prediction as pixels change in the order of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from saccade.results import ComparisonResults, Ranking, main_map, number
from saccade.viz.report.charts import Axis, Frame

PANEL = Frame(340, 220, left=44, right=12, top=10, bottom=40)


@dataclass(frozen=True)
class Removal:
    """Chart of one attention: the curves of its map and of a random order, averaged over its runs."""

    attention: int
    map: str
    description: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    deletion: str
    insertion: str
    random_deletion: str
    random_insertion: str


def removals(results: ComparisonResults) -> list[Removal]:
    """Lay out a chart for each attention with scored runs."""
    x, y = Axis(0, 1, *PANEL.x), Axis(0, 1, *PANEL.y)

    def path(shares: Sequence[float], values: Sequence[float]) -> str:
        return "M" + "L".join(
            f"{x(share):g},{y(value):g}" for share, value in zip(shares, values, strict=True)
        )

    charts = []
    for index, row in enumerate(results["leaderboard"]):
        scored = [r["scores"] for r in results["runs"] if r["attention"] == row["attention"] and r["scores"]]
        joined = main_map(row)
        if not scored or not joined:
            continue
        shares = scored[-1]["shares"]
        alike = [scores for scores in scored if scores["shares"] == shares]  # the same number of steps
        curves = [(scores.get("attention") or scores["grad_cam"])[joined["polarity"]] for scores in alike]
        chance = [scores["random"] for scores in alike]
        name = "Grad-CAM" if "attention" not in alike[-1] else "attention"
        charts.append(
            Removal(
                index,
                f"{name}, {joined['polarity']}",
                f"Area of deletion {_area(curves, 'deletion')}, at random {_area(chance, 'deletion')}; "
                f"of insertion {_area(curves, 'insertion')}, at random {_area(chance, 'insertion')}.",
                [(x(tick), f"{100 * tick:g}%") for tick in (0, 0.25, 0.5, 0.75, 1)],
                [(y(tick), f"{tick:g}") for tick in (0, 0.5, 1)],
                path(shares, _mean([curve["deletion_curve"] for curve in curves])),
                path(shares, _mean([curve["insertion_curve"] for curve in curves])),
                path(shares, _mean([curve["deletion_curve"] for curve in chance])),
                path(shares, _mean([curve["insertion_curve"] for curve in chance])),
            )
        )
    return charts


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*curves, strict=True)]


def _area(curves: Sequence[Ranking], key: Literal["deletion", "insertion"]) -> str:
    return number(fmean(curve[key] for curve in curves))
