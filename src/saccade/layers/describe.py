"""Describe a spec in text, for `saccade show` and the catalog page."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from typing import TypeAlias

from saccade.errors import BadOption
from saccade.layers.spec import Spec

#: Steps and parallel branches, in the order of execution.
Flow: TypeAlias = "list[str | list[Flow]]"

#: The symbols of a flow as parts of a nested Python list: a group of branches is a list of lists.
_LISTS = {"[": "[[", "|": "],[", "]": "]],", "->": ""}

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
        line = " -> ".join(_shapes(text) for text in (example.shapes, example.output) if text)
        needed = ", ".join(f"{name}={value!r}" for name, value in example.options.items())
        lines.setdefault(line, f"{line} with {needed}" if needed else line)
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
    pieces = (piece.strip() for piece in re.findall(r"\[|\]|\||->|(?:(?!->)[^\[\]|])+", flow))
    lists = "".join(_LISTS.get(piece, f"{piece!r},") for piece in pieces if piece)
    try:
        (items,) = ast.literal_eval(f"[{lists}],")
    except (SyntaxError, ValueError):  # ValueError: branches outside of brackets
        message = f"the brackets of the flow {flow!r} do not match"
        raise BadOption(message, owner="draw", option="flow", value=flow) from None
    return "\n".join(row.rstrip() for row in _sequence(items, entered=False))


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
    lines: list[tuple[str, str]] = []  # each with its section
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            section = line[:-1] if re.fullmatch(r"[A-Z]\w+:", line) else ""
        if lines and _continues(line, lines[-1][0], section):
            lines[-1] = (f"{lines[-1][0]} {line.strip()}", section)
        else:
            lines.append((line, section))
    return "\n".join(_fill(line, section, width) for line, section in lines)


def _continues(line: str, previous: str, section: str) -> bool:
    """Return whether a line continues the paragraph or the entry that the previous line belongs to."""
    indent, before = (len(text) - len(text.lstrip()) for text in (line, previous))
    starts = section == "Example" or previous == f"{section}:" or line.lstrip().startswith("- ")
    if starts or not line.strip() or not previous.strip():
        return False
    if section in _ENTRIES or previous.lstrip().startswith("- "):
        return indent > before
    return indent == before == (4 if section else 0)


def _fill(line: str, section: str, width: int) -> str:
    """Wrap one paragraph or entry. Lines of examples stay as they are."""
    if section == "Example":
        return line
    text = line.lstrip()
    indent = len(line) - len(text)
    is_prose = section not in _ENTRIES and indent == (4 if section else 0)
    hang = 2 if text.startswith("- ") else 0 if is_prose else 4
    return textwrap.fill(
        line, width, subsequent_indent=" " * (indent + hang), break_long_words=False, break_on_hyphens=False
    )


def _sequence(items: Flow, *, entered: bool) -> list[str]:
    """Lay out items from left to right, in rows. Lines enter and leave in the first row."""
    rows = [""]
    for number, item in enumerate(items):
        follows = entered or number > 0
        if isinstance(item, str):
            block = [f"─> {item}" if follows else item]
        else:
            block = _branches(item, entered=follows)
        gap = " " if number and isinstance(items[number - 1], str) else ""
        width = len(rows[0])
        pairs = itertools.zip_longest(rows, block, fillvalue="")
        rows = [left.ljust(width) + gap + right for left, right in pairs]
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


def _shapes(text: str) -> str:
    return ", ".join(f"({', '.join(shape.split())})" for shape in text.split(","))
