"""Geometry of the charts. Templates draw it as inline SVG; colors are CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from saccade.results import Row, Run, number
from saccade.viz.report.text import count

_LOG_RANGE = 12  # positive values whose ratio exceeds this get a logarithmic axis
LABEL = 34  # maximum characters of a label
_LETTER, _LINE, _SPOT = 9.5, 18, 5  # character width, label height and point radius on a phone


@dataclass(frozen=True)
class Frame:
    """Drawing area of a chart, in drawing units, with margins for the ticks."""

    width: int
    height: int
    left: int = 52
    right: int = 14
    top: int = 14
    bottom: int = 44

    @property
    def x(self) -> tuple[int, int]:
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[int, int]:
        return self.height - self.bottom, self.top


PANEL, WIDE = Frame(460, 300), Frame(640, 360)


@dataclass(frozen=True)
class Axis:
    """Scale from values to drawing units, with ticks."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._unit(self.low), self._unit(self.high)
        return round(self.start + (self.stop - self.start) * (self._unit(value) - low) / (high - low), 2)

    def ticks(self, write: Callable[[float], str]) -> list[tuple[float, str]]:
        """Return round values within the axis, as pairs of position and label."""
        values = _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)
        return [(self(value), write(value)) for value in values]

    def _unit(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True)
class Line:
    """Mean of one attention over seeds, and the band from the minimum to the maximum over seeds."""

    attention: int
    mean: str
    band: str
    end: tuple[float, float]
    points: list[tuple[float, float, float]]  # x, y, value


@dataclass(frozen=True)
class Curves:
    """Chart of one value per epoch and attention."""

    title: str
    unit: Literal["%", ""]
    description: str
    log: bool
    epochs: list[float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]


@dataclass(frozen=True)
class Point:
    """Cost and error of one attention. `label` is the position (x, y) of its name."""

    attention: int
    x: float
    y: float
    low: float | None
    high: float | None
    label: tuple[float, float]
    anchor: Literal["start", "end"]
    text: str


@dataclass(frozen=True)
class Scatter:
    """Chart of error versus one cost."""

    key: str
    title: str
    log: bool
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    points: list[Point]


def curves(
    title: str, key: str, runs: Sequence[Run], names: Sequence[str], unit: Literal["%", ""] = ""
) -> Curves | None:
    """Lay out the curve `key` of all runs.

    Returns:
        The chart; None if no run has a finite value.
    """
    factor = 100 if unit else 1
    bands = {name: list(_band([r["curves"] for r in runs if r["attention"] == name], key)) for name in names}
    bands = {name: band for name, band in bands.items() if band}
    if not bands:
        return None
    values = [factor * value for band in bands.values() for _, *three in band for value in three]
    epochs = sorted({epoch for band in bands.values() for epoch, *_ in band})
    single = epochs[0] == epochs[-1]
    x = Axis(epochs[0] - single, epochs[-1] + single, *PANEL.x)
    y = _fit(values, *PANEL.y, from_zero=True)
    lines = []
    for name, band in bands.items():
        mean = [(x(epoch), y(factor * value), factor * value) for epoch, value, _, _ in band]
        upper = [(x(epoch), y(factor * high)) for epoch, _, _, high in band]
        lower = [(x(epoch), y(factor * low)) for epoch, _, low, _ in reversed(band)]
        lines.append(
            Line(
                names.index(name),
                mean=_path([point[:2] for point in mean]),
                band=_path(upper + lower) + "Z",
                end=mean[-1][:2],
                points=[(px, py, round(value, 4)) for px, py, value in mean],
            )
        )
    last = ", ".join(f"{name} {number(factor * band[-1][1])}{unit}" for name, band in bands.items())
    return Curves(
        title,
        unit,
        f"At the last epoch, mean over seeds: {last}.",
        y.log,
        epochs,
        [(x(e), f"{e:g}") for e in _linear_ticks(epochs[0], epochs[-1]) if e == int(e)],
        y.ticks(lambda value: f"{value:g}{unit}"),
        lines,
    )


def scatter(
    key: Literal["flops", "latency_ms", "parameters"], title: str, rows: Sequence[Row], labels: Sequence[str]
) -> Scatter:
    """Lay out test error in percent versus one column of the leaderboard."""
    errors = [100 * bound for row in rows for bound in _bounds(row) if bound is not None]
    x = _fit([float(row[key]) for row in rows], *WIDE.x, margin=0.12)
    y = _fit([max(0.0, error) for error in errors], *WIDE.y, from_zero=True, logarithmic=False)
    spots = [(x(float(row[key])), y(100 * row["error"]["mean"])) for row in rows]
    places = _place_labels(spots, labels)
    points = []
    for index, (row, spot) in enumerate(zip(rows, spots, strict=True)):
        low, high = row["error"]["low"], row["error"]["high"]
        points.append(
            Point(
                index,
                *spot,
                low=None if low is None else y(100 * max(low, 0)),
                high=None if high is None else y(100 * high),
                label=places[index],
                anchor="end" if spot[0] > WIDE.width / 2 else "start",
                text=labels[index],
            )
        )
    write = (lambda v: f"{v:g}") if key == "latency_ms" else count
    return Scatter(key, title, x.log, x.ticks(write), y.ticks(lambda v: f"{v:g}%"), points)


def _bounds(row: Row) -> tuple[float, float | None, float | None]:
    return row["error"]["mean"], row["error"]["low"], row["error"]["high"]


def _band(
    runs: Sequence[dict[str, list[float | None]]], key: str
) -> Iterator[tuple[float, float, float, float]]:
    """Yield epoch, mean, minimum and maximum over the runs with a finite value."""
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for epoch, value in zip(run.get("epoch", []), run.get(key, []), strict=False):
            if epoch is not None and value is not None and math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    for epoch in sorted(by_epoch):
        values = by_epoch[epoch]
        yield epoch, sum(values) / len(values), min(values), max(values)


def _fit(
    values: Sequence[float],
    start: float,
    stop: float,
    *,
    from_zero: bool = False,
    logarithmic: bool = True,
    margin: float = 0.04,
) -> Axis:
    """Return an axis that covers all values: logarithmic if they are positive with a large ratio."""
    low, high = min(values), max(values)
    if logarithmic and low > 0 and high / low > _LOG_RANGE:
        room = (high / low) ** margin
        return Axis(low / room, high * room, start, stop, log=True)
    if from_zero:
        return Axis(min(0.0, low), high * (1 + margin) if high > 0 else 1.0, start, stop)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return Axis(low - room, high + room, start, stop)


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


def _place_labels(spots: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float]]:
    """Place each label next to its point, toward the center; shift labels that overlap points or labels."""
    bottom, top = WIDE.y
    taken = [(x - _SPOT, x + _SPOT, y, _LINE / 2 + _SPOT) for x, y in spots]  # left, right, height, clearance
    places = {}
    for index in sorted(range(len(spots)), key=lambda index: spots[index][1]):
        x, y = spots[index]
        room = _LETTER * min(len(labels[index]), LABEL)
        inward = x > WIDE.width / 2
        left = x - room - 2 * _SPOT if inward else x + 2 * _SPOT
        near = [(at, gap) for start, end, at, gap in taken if start < left + room and end > left]
        shifts = sorted((step * _LINE / 4 for step in range(-80, 81)), key=abs)
        free = (
            y + shift
            for shift in shifts
            if top <= y + shift <= bottom and all(abs(y + shift - at) >= gap for at, gap in near)
        )
        place = next(free, y)
        taken.append((left, left + room, place, _LINE))
        places[index] = round(x - 2 * _SPOT if inward else x + 2 * _SPOT, 2), round(place + 4, 2)
    return [places[index] for index in range(len(spots))]
