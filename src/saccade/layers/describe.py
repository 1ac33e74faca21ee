"""A spec's facts as text, for the terminal and for the page of the catalog."""

from __future__ import annotations

import re
import textwrap
from typing import TypeAlias

from saccade.errors import BadOption
from saccade.layers.spec import Example, Spec

#: Steps, and branches that stand side by side, in the order in which data pass them.
Sequence: TypeAlias = "list[str | list[Sequence]]"


def inputs(spec: Spec) -> list[str]:
    """Return the valid inputs, one line for each, and the output where it has another shape.

    >>> from saccade import spec
    >>> inputs(spec("se"))
    ['(B, C, H, W)', '(B, C, W)', '(B, C, T, H, W)']
    """
    found: dict[str, str] = {}
    for example in spec.examples:
        line = _shapes(example.shapes)
        if example.output is not None:
            line += f" -> {_shapes(example.output)}"
        found.setdefault(line, line + _needs(example))
    return [*found.values()]


def options(spec: Spec) -> list[tuple[str, str]]:
    """Return each option as `name = default` with its choices, or "" where any value will do.

    >>> from saccade import spec
    >>> options(spec("multi_head"))[1]
    ("projection = 'linear'", "'linear', 'conv1d', 'conv2d'")
    """
    return [(f"{o.name} = {o.default!r}", ", ".join(map(repr, o.choices))) for o in spec.options]


def draw(flow: str) -> str:
    """Draw the flow of data: steps side by side, branches below each other.

    Raises `BadOption` for brackets that do not match.

    >>> print(draw("x -> [mean -> sigmoid | ] -> multiply -> y"))
    x ─┬─> mean ─> sigmoid ─┬─> multiply ─> y
       └────────────────────┘
    >>> print(draw("[query | key] -> products -> softmax"))
    query ─┬─> products ─> softmax
    key ───┘
    """
    pieces = re.findall(r"\[|\]|\||->|(?:(?!->)[^\[\]|])+", flow)
    pieces = [piece.strip() for piece in pieces if piece.strip()]
    branches, rest = _parse(pieces)
    if rest or len(branches) != 1:
        raise BadOption(f"the brackets of the flow {flow!r} do not match")
    return "\n".join(row.rstrip() for row in _sequence(branches[0], entered=False))


def wrapped(docstring: str, width: int) -> str:
    """Break a docstring's lines for a terminal: prose anew, columns and equations under themselves.

    >>> print(wrapped("One\\ntwo.\\n\\n    y = a + b\\n\\nn    of what there are", 16))
    One two.
    <BLANKLINE>
        y = a + b
    <BLANKLINE>
    n    of what
         there are
    """
    return "\n\n".join(_paragraph(paragraph, width) for paragraph in docstring.split("\n\n"))


def _paragraph(text: str, width: int) -> str:
    """Columns are a word, two spaces or more, and its explanation, which goes on in indented lines."""
    if text.startswith(">>>"):
        return text
    columns = re.match(r"\S+ {2,}", text)
    lines = re.sub(r"\n\s+", " ", text).split("\n") if columns else text.split("\n")
    hang = " " * (len(columns[0]) if columns else len(text) - len(text.lstrip()))
    if not hang:
        lines = [" ".join(lines)]
    elif not columns:
        hang += "    "  # an equation that goes on
    fill = textwrap.TextWrapper(
        width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    ).fill
    return "\n".join(map(fill, lines))


def _parse(pieces: list[str]) -> tuple[list[Sequence], list[str]]:
    """Read branches up to the bracket that closes them; return them and what is left."""
    branches: list[Sequence] = [[]]
    while pieces:
        piece, *pieces = pieces
        if piece == "]":
            return branches, ["]", *pieces]
        if piece == "|":
            branches.append([])
        elif piece == "[":
            inner, pieces = _parse(pieces)
            branches[-1].append(inner)
            pieces = pieces[1:] if pieces else ["]"]  # a bracket left open is reported as one too many
        elif piece != "->":
            branches[-1].append(piece)
    return branches, []


def _sequence(items: Sequence, *, entered: bool) -> list[str]:
    """Lay out items from left to right; lines enter and leave in the first row. All rows are as wide."""
    rows = [""]
    for number, item in enumerate(items):
        follows = entered or number > 0
        if isinstance(item, str):
            space = " " if number and isinstance(items[number - 1], str) else ""
            block = [f"{space}─> {item}" if follows else item]
        else:
            block = _branches(item, entered=follows)
            if number and isinstance(items[number - 1], str):
                block = [" " + row for row in block]
        rows = _beside(rows, block)
    return rows


def _branches(branches: list[Sequence], *, entered: bool) -> list[str]:
    """Lay out branches below each other, between the line that splits them and the line that joins them."""
    blocks = [_sequence(branch, entered=entered) for branch in branches]
    width = max(len(block[0]) for block in blocks)
    rows, last = [], len(blocks) - 1
    for number, block in enumerate(blocks):
        split, join = ("┬", "┬") if number == 0 else ("├", "┤") if number < last else ("└", "┘")
        ends_in_line = not branches[number] or not isinstance(branches[number][-1], str)
        head = block[0] + ("─" if ends_in_line else " ") + "─" * (width - len(block[0]) + 1)
        rows.append((("─" if number == 0 else " ") + split if entered else "") + head + join)
        side = "│" if number < last else " "
        rows += [(f" {side}" if entered else "") + row.ljust(width + 2) + side for row in block[1:]]
    return rows


def _beside(left: list[str], right: list[str]) -> list[str]:
    height = max(len(left), len(right))
    padded = ([*rows, *[" " * len(rows[0])] * (height - len(rows))] for rows in (left, right))
    return ["".join(row) for row in zip(*padded, strict=True)]


def _shapes(text: str) -> str:
    return ", ".join(f"({', '.join(shape.split())})" for shape in text.split(","))


def _needs(example: Example) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in example.options.items())
    return f" with {given}" if given else ""
