"""The guides and the commands in their code blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

GUIDES = (
    "get-started.md",
    "training.md",
    "scale.md",
    "backbones.md",
    "look.md",
    "search.md",
    "segmentation.md",
    "deploy.md",
)
PAGES = {name: (DOCS / name).read_text() for name in GUIDES}


def commands() -> list[tuple[str, list[str]]]:
    """The commands in code blocks, with their page. Comments are dropped, `$seed` is a number."""
    found = []
    for page, text in PAGES.items():
        for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("srun ")
                if line.startswith("saccade "):
                    words = shlex.split(line, comments=True)[1:]
                    found.append((page, ["0" if word == "$seed" else word for word in words]))
    return found


def recipe_of_imagenet() -> str:
    """The recipe of the page about scale, YAML."""
    (recipe,) = re.findall(r"```yaml\n(task:.*?)```", PAGES["scale.md"], re.DOTALL)
    return str(recipe)
