"""Draw boxes and arrows, an SVG that follows the color scheme of the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Literal, NamedTuple

WIDTH, LINE, PAD = 860, 18, 11
STYLE = """text { font: 14px system-ui, sans-serif; fill: #24292f }
.note { fill: #57606a } .name { font-weight: 600 }
.ground { fill: #ffffff } .arrow { stroke: #57606a; stroke-width: 1.5; fill: none } .head { fill: #57606a }
.step { fill: #f3f5f8; stroke: #c4ccd6 } .attention { fill: #e0eefc; stroke: #0b62c4 }
.file { fill: #fcf1e4; stroke: #b1520a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .note { fill: #9aa4b0 } .ground { fill: #161b22 }
.arrow { stroke: #9aa4b0 } .head { fill: #9aa4b0 }
.step { fill: #21262d; stroke: #444c56 } .attention { fill: #12304f; stroke: #6cb2ff }
.file { fill: #3b2a18; stroke: #f2a25c } }"""


class Box(NamedTuple):
    """A box with a name and lines of text.

    Attributes:
        x: Left edge.
        y: Vertical center.
        width: Width.
        lines: The name, and what is said about it. A box without lines is a point: an arrow can end there.
        kind: What it shows: a step, attention, or a file.
    """

    x: float
    y: float
    width: float
    lines: tuple[str, ...]
    kind: Literal["step", "attention", "file"] = "step"

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + 2 * PAD if self.lines else 0


def diagram(title: str, boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str]]) -> str:
    """Return an SVG of boxes, with arrows from the right edge of one to the left edge of another.

    Args:
        title: What a screen reader says.
        boxes: Key -> box.
        arrows: Pairs of keys. Of two boxes above each other, the arrow goes from the upper to the lower.

    Returns:
        The SVG, the same for the same arguments.
    """
    height = max(box.y + box.height / 2 for box in boxes.values()) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height:g}" rx="6"/>',
    ]
    parts += [_arrow(boxes[source], boxes[target]) for source, target in arrows]
    for box in filter(lambda box: box.lines, boxes.values()):
        top = box.y - box.height / 2
        parts.append(
            f'<rect class="{box.kind}" x="{box.x:g}" y="{top:g}" width="{box.width:g}" '
            f'height="{box.height:g}" rx="5"/>'
        )
        for number, line in enumerate(box.lines):
            x, y = box.x + box.width / 2, top + PAD + LINE * (number + 0.76)
            style = "note" if number else "name"
            parts.append(
                f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="middle">{escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(source: Box, target: Box) -> str:
    if target.x < source.x + source.width:
        x = min(source.x + source.width, target.x + target.width) / 2 + max(source.x, target.x) / 2
        start, end = source.y + source.height / 2, target.y - target.height / 2
        return (
            f'<path class="arrow" d="M{x:g} {start:g}V{end - 6:g}"/>'
            f'<path class="head" d="M{x:g} {end:g}l-4-8h8z"/>'
        )
    start, end = source.x + source.width, target.x
    middle = (start + end) / 2
    return (
        f'<path class="arrow" d="M{start:g} {source.y:g}H{middle:g}V{target.y:g}H{end - 6:g}"/>'
        f'<path class="head" d="M{end:g} {target.y:g}l-8-4v8z"/>'
    )
