"""Generate the tables of docs/training.md: tasks, recipe keys and built-in recipes.

python docs/training.py
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from saccade.config import Recipe, builtin_recipes
from saccade.data import TASKS

PAGE = Path(__file__).parent / "training.md"


def tasks() -> list[str]:
    lines = ["| task | options |", "|---|---|"]
    for name, load in TASKS.items():
        bound = {*getattr(load, "keywords", {}), *(["name"] if getattr(load, "args", ()) else [])}
        known = [option for option in inspect.signature(load).parameters if option not in bound]
        listed = ", ".join(f"`{option}`" for option in known if option != "options")
        lines.append(f"| `{name}` | {listed}{', those of the class' if 'options' in known else ''} |")
    return lines


def keys() -> list[str]:
    """Return one row per key. Its meaning is in the `Attributes:` section of the docstring of `Recipe`."""
    text = inspect.getdoc(Recipe) or ""
    entries = re.findall(r"^ {4}(\w+): (\S.*(?:\n {8,}\S.*)*)", text, flags=re.MULTILINE)
    meaning = {name: " ".join(words.split()) for name, words in entries}
    rows = ((field.name, field.default, meaning[field.name]) for field in fields(Recipe))
    return [
        "| key | default | |",
        "|---|---|---|",
        *(f"| `{name}` | `{_yaml(default)}` | {words} |" for name, default, words in rows),
    ]


def recipes() -> list[str]:
    rows = (
        f"| `saccade {recipe.command} --recipe {recipe.name}` | {recipe.summary} |"
        for recipe in builtin_recipes().values()
    )
    return ["| command | |", "|---|---|", *rows]


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def page(text: str) -> str:
    """Return the page with regenerated tables."""
    for table in (tasks, keys, recipes):
        before, mark, rest = text.partition(f"<!-- {table.__name__} -->\n")
        text = before + mark + "\n".join(table()) + "\n" + rest[rest.index("<!-- end -->") :]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
