"""Draw measured values as dots on one axis, an SVG that follows the color scheme of the reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 760, 250, 40, 58, 24
#: Series in the order in which they are given: a color of the light and one of the dark scheme. The fourth to
#: sixth series have the shapes and colors of the first three, not filled.
COLORS = (("#0b62c4", "#6cb2ff"), ("#b1520a", "#f2a25c"), ("#2f7d32", "#7fcf83"))
STYLE = """text { font: 13px system-ui, sans-serif; fill: #24292f }
.ground { fill: #ffffff } .grid { stroke: #d0d7de } .mark { stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .ground { fill: #161b22 } .grid { stroke: #3d444d } }"""


def dot_plot(title: str, axis: str, rows: Mapping[str, Mapping[str, float]], *, log: bool = False) -> str:
    """Return an SVG with one row per name, one dot per series.

    Args:
        title: What a screen reader says.
        axis: What the values are, with their unit.
        rows: Name of a row -> name of a series -> value. A row need not have all of the at most six series.
        log: Whether the axis is logarithmic. Otherwise it contains 0.

    Returns:
        The SVG, the same for the same values.
    """
    series = list(dict.fromkeys(name for values in rows.values() for name in values))
    numbers = [value for values in rows.values() for value in values.values()]
    ticks = _ticks(min(numbers), max(numbers), log=log)
    height = TOP + ROW * len(rows) + 46

    def x(value: float) -> float:
        low, high, at = (math.log(v) if log else v for v in (ticks[0], ticks[-1], value))
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - low) / (high - low)

    bottom = TOP + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}\n{_colors(len(series))}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
    ]
    for tick in ticks:
        parts += [
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{bottom}"/>',
            f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>',
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{bottom + 38}" text-anchor="middle">{escape(axis)}</text>')
    for number, (name, values) in enumerate(rows.items()):
        y = TOP + ROW * (number + 0.5)
        parts.append(f'<text x="{LEFT - 14}" y="{y + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        parts += [_mark(series.index(key), x(value), y) for key, value in values.items()]
    parts += _legend(series)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Return round numbers from at most `low` to at least `high`."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        first = max(step for step in steps if step <= low)
        return [step for step in steps if first <= step <= min(s for s in steps if s >= high)]
    low, high = min(low, 0), max(high, 0)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 8)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _colors(count: int) -> str:
    def rules(scheme: int) -> str:
        colors = [COLORS[number % len(COLORS)][scheme] for number in range(count)]
        fills = [color if number < len(COLORS) else "none" for number, color in enumerate(colors)]
        pairs = enumerate(zip(colors, fills, strict=True))
        return "".join(f".s{number} {{ stroke: {color}; fill: {fill} }} " for number, (color, fill) in pairs)

    return f"{rules(0)}\n@media (prefers-color-scheme: dark) {{ {rules(1)} }}"


def _mark(series: int, x: float, y: float) -> str:
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"',
        f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"',
        f'<path d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"',
    )
    return f'{shapes[series % len(shapes)]} class="mark s{series}"/>'


def _legend(series: Sequence[str]) -> list[str]:
    """Return the names of the series above the plot, three in a row."""
    parts = []
    for number, name in enumerate(series):
        x, y = 20 + 250 * (number % 3), 16 + 20 * (number // 3)
        parts += [_mark(number, x, y), f'<text x="{x + 14}" y="{y + 4}">{escape(name)}</text>']
    return parts
