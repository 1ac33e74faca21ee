"""The rules of this package for its own mechanisms: how they are documented, and where they are."""

from __future__ import annotations

import inspect

from saccade.layers.spec import Spec
from saccade.testing.structure import expect_facts

_BUILT_IN = "saccade.layers."


def check_documentation(spec: Spec) -> None:
    """The paper is named, the docstring has an equation and an example, and the file is where it belongs."""
    doc, path = inspect.getdoc(spec.module) or "", spec.module.__module__
    facts = {
        "a paper with title and authors": bool(spec.paper.title and spec.paper.authors),
        "the year of the paper": 1950 <= spec.paper.year <= 2100,
        "a url of the paper that starts with https://": spec.paper.url.startswith("https://"),
        "a summary of one line": bool(spec.summary) and "\n" not in spec.summary,
        f"a docstring that names the year {spec.paper.year}": str(spec.paper.year) in doc,
        "a docstring with an example (>>>)": ">>>" in doc,
        "a docstring with an equation, indented": any(
            line.startswith("    ") and "=" in line for line in doc.splitlines()
        ),
        "name and domain of its file and folder": not path.startswith(_BUILT_IN)
        or path == f"{_BUILT_IN}{spec.domain}.{spec.name}",
        "a documented function in the file of its module": spec.function.__module__ == path
        and bool(inspect.getdoc(spec.function)),
    }
    expect_facts(spec, facts)
