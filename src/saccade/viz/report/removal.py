"""Charts of deletion and insertion: how the answer changes as pixels go and come in the map's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from saccade.viz.report.charts import Axis, Frame
from saccade.viz.report.results import Ranking, Results
from saccade.viz.report.table import main_map
from saccade.viz.report.text import number

PANEL = Frame(340, 220, left=44, right=12, top=10, bottom=40)


@dataclass(frozen=True)
class Removal:
    """One attention: four paths, those of its map and those of a random order, means over its runs."""

    attention: int
    map: str
    description: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    deletion: str
    insertion: str
    random_deletion: str
    random_insertion: str


def removals(results: Results) -> list[Removal]:
    """Lay out a chart for each attention whose runs have been scored."""
    x, y = Axis(0, 1, *PANEL.x), Axis(0, 1, *PANEL.y)

    def path(shares: Sequence[float], values: Sequence[float]) -> str:
        return "M" + "L".join(
            f"{x(share):g},{y(value):g}" for share, value in zip(shares, values, strict=True)
        )

    found = []
    for place, row in enumerate(results["leaderboard"]):
        scored = [r["scores"] for r in results["runs"] if r["attention"] == row["attention"] and r["scores"]]
        its = main_map(row)
        if not scored or not its:
            continue
        last = scored[-1]["shares"]
        alike = [scores for scores in scored if scores["shares"] == last]  # in as many steps
        maps = [scores.get("attention") or scores["grad_cam"] for scores in alike]
        ours = [(m["positive"] if its["polarity"] == "positive" else m["negative"]) for m in maps]
        chance = [scores["random"] for scores in alike]
        name = "Grad-CAM" if "attention" not in alike[-1] else "attention"
        found.append(
            Removal(
                place,
                f"{name}, {its['polarity']}",
                f"Area of deletion {_area(ours, 'deletion')}, at random {_area(chance, 'deletion')}; "
                f"of insertion {_area(ours, 'insertion')}, at random {_area(chance, 'insertion')}.",
                [(x(tick), f"{100 * tick:g}%") for tick in (0, 0.25, 0.5, 0.75, 1)],
                [(y(tick), f"{tick:g}") for tick in (0, 0.5, 1)],
                path(last, _mean([curve["deletion_curve"] for curve in ours])),
                path(last, _mean([curve["insertion_curve"] for curve in ours])),
                path(last, _mean([curve["deletion_curve"] for curve in chance])),
                path(last, _mean([curve["insertion_curve"] for curve in chance])),
            )
        )
    return found


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*curves, strict=True)]


def _area(curves: Sequence[Ranking], key: Literal["deletion", "insertion"]) -> str:
    return number(fmean(curve[key] for curve in curves))
