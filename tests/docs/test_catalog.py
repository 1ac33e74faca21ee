"""The catalog: the page is generated from the specs, and drawings fit into a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import saccade as sc
from saccade.layers.describe import draw, wrapped

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "docs"))

import catalog


def test_the_page_is_up_to_date() -> None:
    assert catalog.PAGE.read_text() == catalog.page(), "run python docs/catalog.py"


def test_the_page_names_every_mechanism_and_all_its_options() -> None:
    page = catalog.page()
    for name in sc.mechanisms():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        assert sc.spec(name).paper.url in section
        assert all(f"`{option.name} = {option.default!r}`" in section for option in sc.spec(name).options)


@pytest.mark.parametrize("name", sc.mechanisms())
def test_drawings_fit_a_terminal_and_end_in_one_line(name: str) -> None:
    rows = draw(sc.spec(name).flow).splitlines()
    assert max(map(len, rows)) <= 80
    assert rows[0].endswith(sc.spec(name).flow.split("->")[-1].strip())
    assert len(rows) <= 6


def test_branches_inside_branches() -> None:
    assert draw("x -> [a | [b | c -> d] -> e | ] -> [f | g | h] -> [ | i] -> y").splitlines() == [
        "x ─┬─> a ───────────────┬─┬─> f ─┬─┬──────┬─> y",
        "   ├─┬─> b ──────┬─> e ─┤ ├─> g ─┤ └─> i ─┘",
        "   │ └─> c ─> d ─┘      │ └─> h ─┘",
        "   └────────────────────┘",
    ]


@pytest.mark.parametrize("flow", ["x -> [a", "x ] -> y", "a | b", "[[a | b] -> c"])
def test_brackets_have_to_match(flow: str) -> None:
    with pytest.raises(sc.BadOption, match="do not match"):
        draw(flow)


def test_a_docstring_fits_a_narrow_terminal() -> None:
    for name in sc.mechanisms():
        text = wrapped(sc.spec(name).module.__doc__ or "", 60)
        code = [line for line in text.splitlines() if len(line) > 60]
        assert all(line.lstrip().startswith(">>>") for line in code), code


DOCSTRING = """A summary that
    goes on.

        y = a + b

    References:
        Somebody: A title,
        2018.

    Args:
        channels: Number of channels,
            a long explanation.
        bias: Whether.

    Shape:
        - Input: (B, C, H, W), where
          H is even.

    Example:
        >>> print("a line that is longer than the terminal")
        a line that is longer than the terminal
    """


def test_sections_keep_their_entries() -> None:
    assert wrapped(DOCSTRING, 30).splitlines() == [
        "A summary that goes on.",
        "",
        "    y = a + b",
        "",
        "References:",
        "    Somebody: A title, 2018.",
        "",
        "Args:",
        "    channels: Number of",
        "        channels, a long",
        "        explanation.",
        "    bias: Whether.",
        "",
        "Shape:",
        "    - Input: (B, C, H, W),",
        "      where H is even.",
        "",
        "Example:",
        '    >>> print("a line that is longer than the terminal")',
        "    a line that is longer than the terminal",
    ]
