"""No circular import: modules form no cycle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import saccade.viz

ROOT = Path(saccade.viz.__file__).parent
MODULES = {
    f"saccade.viz.{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}": path
    for path in sorted(ROOT.rglob("*.py"))
    if path.stem != "__init__"
}


def test_modules_form_no_cycle_not_even_for_types_or_inside_functions() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saccade.viz"):
                targets |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = targets & MODULES.keys()
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) == set(MODULES)
    assert order.index("saccade.viz.payload") < order.index("saccade.viz.look_page")
    assert order.index("saccade.viz.look_page") < order.index("saccade.viz.figure")
