"""The guides: commands parse, recipes are valid, links lead to headings, tables are current."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from saccade.cli import app
from saccade.cli.options import recipe_values
from saccade.config import Comparison, Recipe, read_recipe
from saccade.data import resolve_task
from saccade.training.objectives.contrastive import Contrastive
from saccade.training.objectives.hard import Hard
from saccade.training.objectives.recurrent import Recurrent
from support.guides import DOCS, PAGES, commands, recipe_of_imagenet

sys.path.insert(0, str(DOCS))

import training as training_page

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the page about scale, as a file."""
    monkeypatch.chdir(tmp_path)
    Path("imagenet.yaml").write_text(recipe_of_imagenet())


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)
def test_commands_parse_and_their_recipes_are_valid(page: str, words: list[str]) -> None:
    name, *arguments = words
    options = COMMANDS[name].make_context(f"{page} {name}", arguments).params
    if name in ("train", "compare"):
        if name == "compare":
            options |= {"attentions": options["attention"] or None, "attention": None}
        values = recipe_values(read_recipe(options["recipe"]) if options["recipe"] else {}, options)
        is_comparison = name == "compare" and "attentions" in values
        recipe = Comparison.from_mapping(values).training if is_comparison else Recipe.from_mapping(values)
        resolve_task(recipe.task)


def test_all_kinds_of_commands_are_found() -> None:
    pages = [page for page, _ in commands()]
    assert pages.count("training.md") >= 14
    assert pages.count("scale.md") >= 7
    assert {words[0] for _, words in commands()} >= {"train", "compare", "look"}


@pytest.mark.parametrize(
    ("title", "objective"),
    [
        ("Train a recurrent attention model", Recurrent),
        ("Train hard attention", Hard),
        ("Pre-train without labels", Contrastive),
    ],
)
def test_tables_of_options_are_those_of_the_objective(title: str, objective: type) -> None:
    section = PAGES["training.md"].split(f"### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", section, re.MULTILINE))
    parameters = [*inspect.signature(objective).parameters.values()][2:]
    assert rows.keys() == {one.name for one in parameters}
    for one in parameters:
        assert type(one.default)(rows[one.name]) == one.default


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_headings(page: str) -> None:
    for target, _, heading in (
        link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if "://" not in link
    ):
        if target.endswith((".svg", ".jpg")):
            assert (DOCS / target).exists()
            continue
        text = (DOCS / (target or page)).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
        assert not heading or heading in anchors, f"{target}#{heading}"


def test_keys_in_the_text_exist() -> None:
    keys = set(re.findall(r"--set (\w+)=", "".join(PAGES.values())))
    keys |= set(re.findall(r"^\| `(\w+): ", PAGES["training.md"], re.MULTILINE))
    assert keys <= Recipe.__dataclass_fields__.keys()
    assert len(keys) > 8


def test_the_generated_tables_are_current() -> None:
    assert training_page.page(PAGES["training.md"]) == PAGES["training.md"], "run python docs/training.py"
