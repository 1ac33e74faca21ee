"""Generate the layers in docs/architecture.md from the import-linter contracts in pyproject.toml.

python docs/architecture.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "architecture.md"
PYPROJECT = PAGE.parent.parent / "pyproject.toml"
BEGIN, END = "<!-- layers: docs/architecture.py writes them -->", "<!-- end of layers -->"

#: What a layer contains. Layers without an entry are described in the tree of the page.
CONTENTS = {
    "cli": "commands; each imports what it needs when it runs",
    "search | sharing": "which attention, where; models as folders and on the hub",
    "experiments | viz": "grids of runs; figures and pages",
    "training": "plans become runs",
    "results": "files on disk, statistics",
    "config": "recipes become plans",
    "attribution | exporting | integrations": "maps that explain a score; ONNX and programs; other trainers",
    "profiling": "parameters, FLOPs, latency",
    "layers": "mechanisms",
    "ops": "arithmetic",
    "_torch": "private parts of PyTorch",
    "errors": "errors with fields",
}


def contracts() -> list[dict[str, Any]]:
    """Return the contracts: the layers, then what only some packages may import."""
    linter = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]
    return sorted(linter["contracts"], key=lambda contract: contract["type"] != "layers")


def picture(contracts: list[dict[str, Any]]) -> str:
    """Return the layers from top to bottom, and one line per further contract."""
    layers, *others = contracts
    width = 2 + max(map(len, CONTENTS))
    lines = [f"{layer:{width}}{CONTENTS.get(layer, '')}".rstrip() for layer in layers["layers"]]
    return "\n".join(["```", *lines, "```", "", *(f"- {contract['name']}." for contract in others)])


def updated(page: str, contracts: list[dict[str, Any]]) -> str:
    """Return the page with the layers of these contracts."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{picture(contracts)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), contracts()))
