"""The rules of this package for its own mechanisms: documentation and location."""

from __future__ import annotations

import inspect
import re
import sys

from saccade.errors import BadOption
from saccade.layers.describe import draw
from saccade.layers.spec import Spec
from saccade.testing.structure import expect_facts

_BUILT_IN = "saccade.layers."


def check_documentation(spec: Spec) -> None:
    """The paper, the summary and the flow are filled in; the docstring has an equation and all sections."""
    text, sections = _sections(inspect.getdoc(spec.module) or "")
    entries = {*re.findall(r"^ {4}(\w+): \S", sections.get("Args", ""), flags=re.MULTILINE)}
    facts = {
        "a paper with title and authors": bool(spec.paper.title and spec.paper.authors),
        "the year of the paper": 1950 <= spec.paper.year <= 2100,
        "a url of the paper that starts with https://": spec.paper.url.startswith("https://"),
        "a summary of one line": bool(spec.summary) and "\n" not in spec.summary,
        "a flow that can be drawn": _is_drawn(spec.flow),
        "a docstring with an equation, indented": any(
            line.startswith("    ") and "=" in line for line in text.splitlines()
        ),
        f"a section References that names the year {spec.paper.year}": str(spec.paper.year)
        in sections.get("References", ""),
        "a section Shape": bool(sections.get("Shape", "").strip()),
        "a section Example with code (>>>)": ">>>" in sections.get("Example", ""),
    }
    for option in spec.options:
        facts[f"a section Args that explains {option.name}"] = option.name in entries
    for entry in sorted(entries):
        facts[f"the parameter {entry}, which its section Args explains"] = (
            entry in inspect.signature(spec.module).parameters
        )
    expect_facts(spec, facts)


def check_location(spec: Spec) -> None:
    """The module and its function are public and documented names of one file; a built-in has its own."""
    path, function = spec.module.__module__, spec.function
    name = getattr(function, "__name__", "_")
    facts = {
        "name and domain of its file and folder": not path.startswith(_BUILT_IN)
        or path == f"{_BUILT_IN}{spec.domain}.{spec.name}",
        "a documented function in the file of its module": function.__module__ == path
        and bool(inspect.getdoc(function)),
        "a public function that can be imported": not name.startswith("_")
        and getattr(sys.modules.get(path), name, None) is function,
    }
    expect_facts(spec, facts)


def _sections(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the text before the first section of a Google-style docstring, and each section's text."""
    text, *parts = re.split(r"^([A-Z]\w+):$", docstring, flags=re.MULTILINE)
    return text, dict(zip(parts[::2], parts[1::2], strict=True))


def _is_drawn(flow: str) -> bool:
    try:
        return bool(draw(flow))
    except BadOption:
        return False
