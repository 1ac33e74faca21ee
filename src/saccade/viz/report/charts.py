"""Geometry of the charts. Templates draw it as inline SVG; colors are CSS variables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

from saccade.results import ComparisonResults, Ranking, Row, Run, main_map, number
from saccade.viz.report.table import bounds, count

_LOG_RANGE = 12  # positive values whose ratio exceeds this get a logarithmic axis
_LABEL = 26  # maximum characters of a line of a label
_LETTER, _LINE, _SPOT = 9.5, 18, 5  # character width, label height and point radius on a phone

#: What a template draws: the frame, the ticks of the axes, and the marks, in drawing units.
Chart = dict[str, Any]


class Frame(NamedTuple):
    """Size of a chart, and both ends of its axes, in drawing units."""

    width: int
    height: int
    x: tuple[int, int]
    y: tuple[int, int]


SMALL = Frame(340, 220, x=(44, 328), y=(180, 10))
PANEL = Frame(460, 300, x=(52, 446), y=(256, 14))
WIDE = Frame(640, 360, x=(52, 626), y=(316, 14))


@dataclass(frozen=True)
class Axis:
    """Scale from values to drawing units, with ticks."""

    low: float
    high: float
    ends: tuple[int, int]
    log: bool = False

    def __call__(self, value: float) -> float:
        unit = math.log10 if self.log else float
        (start, stop), low, high = self.ends, unit(self.low), unit(self.high)
        return round(start + (stop - start) * (unit(value) - low) / (high - low), 2)

    def ticks(self, write: Callable[[float], str]) -> list[tuple[float, str]]:
        """Return round values within the axis, as pairs of position and label."""
        values = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return [(self(value), write(value)) for value in values]


def curves(
    title: str, key: str, runs: Sequence[Run], names: Sequence[str], unit: Literal["%", ""] = ""
) -> Chart | None:
    """Lay out the curve `key` of all runs: a line per attention, and a band over its seeds.

    Returns:
        The chart; None if no run has a finite value.
    """
    factor = 100 if unit else 1
    bands = {}
    for name in names:
        alike = [run["curves"] for run in runs if run["attention"] == name]
        if band := list(_band(alike, key, factor)):
            bands[name] = band
    if not bands:
        return None
    epochs = sorted({epoch for band in bands.values() for epoch, *_ in band})
    single = epochs[0] == epochs[-1]
    x = Axis(epochs[0] - single, epochs[-1] + single, PANEL.x)
    y = _fit([v for band in bands.values() for _, *three in band for v in three], PANEL.y, from_zero=True)
    lines = []
    for name, band in bands.items():
        mean = [(x(epoch), y(value), round(value, 4)) for epoch, value, _, _ in band]
        upper = [(x(epoch), y(high)) for epoch, _, _, high in band]
        lower = [(x(epoch), y(low)) for epoch, _, low, _ in reversed(band)]
        lines.append(
            {
                "attention": names.index(name),
                "mean": _path([point[:2] for point in mean]),
                "band": _path(upper + lower) + "Z",
                "points": mean,
            }
        )
    last = ", ".join(f"{name} {number(band[-1][1])}{unit}" for name, band in bands.items())
    return {
        "title": title,
        "unit": unit,
        "description": f"At the last epoch, mean over seeds: {last}.",
        "frame": PANEL,
        "log": y.log,
        "epochs": epochs,
        "x_ticks": [(x(e), f"{e:g}") for e in _linear_ticks(epochs[0], epochs[-1]) if e == int(e)],
        "y_ticks": y.ticks(lambda value: f"{value:g}{unit}"),
        "lines": lines,
    }


def scatter(
    key: Literal["flops", "latency_ms", "parameters"], title: str, rows: Sequence[Row], labels: Sequence[str]
) -> Chart:
    """Lay out test error in percent versus one column of the leaderboard."""
    errors = [max(0.0, 100 * bound) for row in rows for bound in bounds(row["error"])]
    x = _fit([float(row[key]) for row in rows], WIDE.x, from_zero=True, margin=0.12)
    y = _fit(errors, WIDE.y, from_zero=True, logarithmic=False)
    spots = [(x(float(row[key])), y(100 * row["error"]["mean"])) for row in rows]
    points = []
    wrapped = [_wrap(label) for label in labels]
    for row, spot, lines, place in zip(rows, spots, wrapped, _place_labels(spots, wrapped), strict=True):
        has_interval = row["error"]["low"] is not None
        points.append(
            {
                "x": spot[0],
                "y": spot[1],
                "interval": [y(max(0.0, 100 * e)) for e in bounds(row["error"])] if has_interval else None,
                "label": place,
                "anchor": "end" if spot[0] > WIDE.width / 2 else "start",
                "lines": lines,
            }
        )
    return {
        "key": key,
        "title": title,
        "frame": WIDE,
        "log": x.log,
        "line_height": _LINE,
        "x_ticks": x.ticks("{:g}".format if key == "latency_ms" else count),
        "y_ticks": y.ticks("{:g}%".format),
        "points": points,
    }


def removals(results: ComparisonResults) -> list[Chart]:
    """Lay out a chart for each attention with scored runs: the prediction as pixels are deleted or inserted.

    Lines are the means over its runs in the order of the map, and in a random order.
    """
    x, y = Axis(0, 1, SMALL.x), Axis(0, 1, SMALL.y)

    def paths(shares: Sequence[float], curves: Sequence[Ranking]) -> list[str]:
        both = [c["deletion_curve"] for c in curves], [c["insertion_curve"] for c in curves]
        means = (map(fmean, zip(*group, strict=True)) for group in both)
        return [_path([(x(s), y(v)) for s, v in zip(shares, mean, strict=True)]) for mean in means]

    def area(curves: Sequence[Ranking], key: Literal["deletion", "insertion"]) -> str:
        return number(fmean(curve[key] for curve in curves))

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
            {
                "attention": index,
                "map": f"{name}, {joined['polarity']}",
                "description": f"Area of deletion {area(curves, 'deletion')}, "
                f"at random {area(chance, 'deletion')}; "
                f"of insertion {area(curves, 'insertion')}, at random {area(chance, 'insertion')}.",
                "frame": SMALL,
                "x_ticks": [(x(tick), f"{100 * tick:g}%") for tick in (0, 0.25, 0.5, 0.75, 1)],
                "y_ticks": [(y(tick), f"{tick:g}") for tick in (0, 0.5, 1)],
                "lines": paths(shares, curves),
                "chance": paths(shares, chance),
            }
        )
    return charts


def _band(
    runs: Sequence[dict[str, list[float | None]]], key: str, factor: int
) -> Iterator[tuple[float, float, float, float]]:
    """Yield epoch and, times a factor, mean, minimum and maximum over the runs with a finite value."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for epoch, value in zip(run.get("epoch", []), run.get(key, []), strict=False):
            if epoch is not None and value is not None and math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(factor * value)
    for epoch, values in sorted(by_epoch.items()):
        yield epoch, fmean(values), min(values), max(values)


def _fit(
    values: Sequence[float],
    ends: tuple[int, int],
    *,
    from_zero: bool = False,
    logarithmic: bool = True,
    margin: float = 0.04,
) -> Axis:
    """Return an axis that covers all values: logarithmic if they are positive with a large ratio."""
    low, high = min(values), max(values)
    if logarithmic and low > 0 and high / low > _LOG_RANGE:
        room = (high / low) ** margin
        return Axis(low / room, high * room, ends, log=True)
    if from_zero:
        return Axis(min(0.0, low), high * (1 + margin) if high > 0 else 1.0, ends)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return Axis(low - room, high + room, ends)


def _linear_ticks(low: float, high: float) -> list[float]:
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if span / (power * nice) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        ticks = [digit * 10.0**power for power in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 8:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 8)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _wrap(label: str) -> list[str]:
    """Break a label after commas, colons and other separators into lines of limited length."""
    lines = [""]
    for part in re.findall(rf"[^ ,:@+.]{{1,{_LABEL - 1}}}[ ,:@+.]?|[ ,:@+.]", label):
        if len(lines[-1]) + len(part) > _LABEL:
            lines.append("")
        lines[-1] += part
    return lines


def _place_labels(
    spots: Sequence[tuple[float, float]], labels: Sequence[Sequence[str]]
) -> list[tuple[float, float]]:
    """Place the lines of each label next to its point, toward the center; shift labels that would overlap.

    Returns:
        The position of the first line of each label.
    """
    bottom, top = WIDE.y
    taken = [(x - _SPOT, x + _SPOT, y - _SPOT, y + _SPOT) for x, y in spots]  # left, right, top, bottom
    places = {}
    for index in sorted(range(len(spots)), key=lambda index: spots[index][1]):
        (x, y), height = spots[index], _LINE * len(labels[index])
        room = _LETTER * max(map(len, labels[index]))
        inward = x > WIDE.width / 2
        left = x - room - 2 * _SPOT if inward else x + 2 * _SPOT
        near = [(high, low) for start, end, high, low in taken if start < left + room and end > left]
        shifts = sorted((step * _LINE / 4 for step in range(-80, 81)), key=abs)
        free = (
            start
            for start in (y + shift - _LINE / 2 for shift in shifts)
            if top <= start
            and start + height <= bottom
            and all(start >= low or start + height <= high for high, low in near)
        )
        place = next(free, y - _LINE / 2)
        taken.append((left, left + room, place, place + height))
        places[index] = round(x - 2 * _SPOT if inward else x + 2 * _SPOT, 2), round(place + _LINE / 2 + 4, 2)
    return [places[index] for index in range(len(spots))]
