"""What the catalog says of a mechanism, read from its file: neither the mechanism nor torch is imported."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saccade.layers import __path__ as _FOLDERS
from saccade.layers.built_in import built_in_mechanisms

Domain = Literal[
    "channel", "spatial", "mixed", "pairwise", "branch", "sampling", "hard", "temporal", "pooling"
]


@dataclass(frozen=True)
class Paper:
    """The publication of a mechanism."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Facts:
    """The facts of a `Spec` that are text. The attributes are those of `Spec`."""

    name: str
    domain: Domain
    paper: Paper
    summary: str
    selection: Literal["soft", "hard"] = "soft"
    unit: Literal["item", "location"] = "location"


def built_in_facts() -> list[Facts]:
    """Return the facts of all built-in mechanisms, in the order of their names.

    Example:
        >>> next(facts.paper.year for facts in built_in_facts() if facts.name == "cbam")
        2018
    """
    return [
        _read(Path(folder, domain, f"{name}.py"))
        for folder in _FOLDERS
        for name, domain in sorted(built_in_mechanisms().items())
    ]


def _read(path: Path) -> Facts:
    """Return the facts in the file of a mechanism, which ends with `SPEC = Spec(...)`."""
    text = path.read_text(encoding="utf-8")
    spec = ast.parse(text[text.index("\nSPEC = Spec(") :]).body[0]
    assert isinstance(spec, ast.Assign)
    assert isinstance(spec.value, ast.Call)
    given = {keyword.arg: keyword.value for keyword in spec.value.keywords}
    values: dict[str, Any] = {
        name: ast.literal_eval(given[name])
        for name in ("name", "domain", "summary", "selection", "unit")
        if name in given
    }
    return Facts(**values, paper=_paper(given["paper"]))


def _paper(written: ast.expr) -> Paper:
    """Return a publication that is written out, or the name of one in `papers.py`."""
    from saccade.layers import papers

    if isinstance(written, ast.Name):
        paper: Paper = getattr(papers, written.id)
        return paper
    assert isinstance(written, ast.Call)
    return Paper(*map(ast.literal_eval, written.args))
