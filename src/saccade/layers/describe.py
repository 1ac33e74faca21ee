"""Describe a spec in text, for `saccade show` and the catalog page."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TypeAlias

from saccade.errors import BadOption
from saccade.layers.spec import Example, Spec

#: Steps and parallel branches, in the order of execution.
Flow: TypeAlias = "list[str | list[Flow]]"

#: Sections of a docstring that hold one entry per item.
_ENTRIES = ("Args", "Raises", "Shape")


def inputs(spec: Spec) -> list[str]:
    """Return one line for each valid input. A line names the output if its shape differs.

    Example:
        >>> from saccade import spec
        >>> inputs(spec("se"))
        ['(B, C, H, W)', '(B, C, W)', '(B, C, T, H, W)']
    """
    lines: dict[str, str] = {}
    for example in spec.examples:
        line = _shapes(example.shapes)
        if example.output is not None:
            line += f" -> {_shapes(example.output)}"
        lines.setdefault(line, line + _needs(example))
    return [*lines.values()]


def options(spec: Spec) -> list[tuple[str, str]]:
    """Return each option as `name = default` with its choices; "" if the values are not a closed set.

    Example:
        >>> from saccade import spec
        >>> options(spec("multi_head"))[1]
        ("projection = 'linear'", "'linear', 'conv1d', 'conv2d'")
    """
    return [(f"{o.name} = {o.default!r}", ", ".join(map(repr, o.choices))) for o in spec.options]


def draw(flow: str) -> str:
    """Draw a data flow: steps from left to right, parallel branches below each other.

    Args:
        flow: The flow, as in `Spec.flow`.

    Raises:
        BadOption: The brackets do not match.

    Example:
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
        message = f"the brackets of the flow {flow!r} do not match"
        raise BadOption(message, owner="draw", option="flow", value=flow)
    return "\n".join(row.rstrip() for row in _sequence(branches[0], entered=False))


def wrapped(docstring: str, width: int) -> str:
    """Wrap a Google-style docstring for a terminal.

    Paragraphs and the entries of sections are wrapped. Equations, which are indented, keep their lines.
    Examples stay as they are.

    Args:
        docstring: The docstring.
        width: Maximum length of a line, except in examples.

    Example:
        >>> print(wrapped("One\\ntwo.\\n\\n    y = a + b\\n\\nArgs:\\n    n: Number of\\n        items.", 18))
        One two.
        <BLANKLINE>
            y = a + b
        <BLANKLINE>
        Args:
            n: Number of
                items.
    """
    lines: list[str] = []
    hangs: list[int | None] = []
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            section = line[:-1] if re.fullmatch(r"[A-Z]\w+:", line) else ""
        if section == "Example":
            lines.append(line)
            hangs.append(None)
        elif lines and _continues(line, lines[-1], section):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
            hangs.append(_hang(line, section))
    return "\n".join(
        line if hang is None else _fill(line, width, hang) for line, hang in zip(lines, hangs, strict=True)
    )


def _continues(line: str, previous: str, section: str) -> bool:
    """Whether a line continues the paragraph or the entry that the previous line belongs to."""
    indent, before = (len(text) - len(text.lstrip()) for text in (line, previous))
    if (
        not line.strip()
        or not previous.strip()
        or previous == f"{section}:"
        or line.lstrip().startswith("- ")
    ):
        return False
    if section in _ENTRIES or previous.lstrip().startswith("- "):
        return indent > before
    return indent == before == (4 if section else 0)


def _hang(line: str, section: str) -> int:
    """Return the indent of the lines that follow `line` when it is wrapped."""
    text = line.lstrip()
    indent = len(line) - len(text)
    if text.startswith("- "):
        return indent + 2
    is_prose = section not in _ENTRIES and indent == (4 if section else 0)
    return indent if is_prose else indent + 4


def _fill(line: str, width: int, hang: int) -> str:
    return textwrap.fill(
        line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
    )


def _parse(pieces: list[str]) -> tuple[list[Flow], list[str]]:
    """Parse branches up to their closing bracket. Return them and the remaining pieces."""
    branches: list[Flow] = [[]]
    while pieces:
        piece, *pieces = pieces
        if piece == "]":
            return branches, ["]", *pieces]
        if piece == "|":
            branches.append([])
        elif piece == "[":
            inner, pieces = _parse(pieces)
            branches[-1].append(inner)
            pieces = pieces[1:] if pieces else ["]"]  # report an unclosed bracket as a surplus one
        elif piece != "->":
            branches[-1].append(piece)
    return branches, []


def _sequence(items: Flow, *, entered: bool) -> list[str]:
    """Lay out items from left to right, in rows of equal width. Lines enter and leave in the first row."""
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


def _branches(branches: list[Flow], *, entered: bool) -> list[str]:
    """Lay out branches below each other, between a splitting line and a joining line."""
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
    options = ", ".join(f"{name}={value!r}" for name, value in example.options.items())
    return f" with {options}" if options else ""
