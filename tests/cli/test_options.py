"""Help, shared options, and names that look like markup."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import saccade as sc
from saccade import plugins
from saccade.cli import app
from saccade.cli.options import recipe_values
from saccade.data import load_task, load_white_patch, task_names
from saccade.errors import BadOption, BadRecipe, UnknownName
from saccade.layers import registry
from support.errors import raises

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_explains_every_option(name: str) -> None:
    text = output(name, "--help")
    assert f"Example: saccade {name}" in text
    for parameter in COMMANDS[name].params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[-1] in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = output(name, "--help").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    panels = [getattr(option, "rich_help_panel", None) for option in COMMANDS[name].params]
    assert {panel for panel in panels if panel} <= {*titles}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "report")])
def test_a_command_that_prints_results_prints_json(name: str) -> None:
    assert "--json" in {text for parameter in COMMANDS[name].params for text in parameter.opts}


@pytest.mark.usefixtures("wide")
def test_brackets_in_help_are_text() -> None:
    assert "NAME[:option=value,...]" in output("train", "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_a_valid_command_line(name: str) -> None:
    words = COMMANDS[name].epilog.partition("`saccade ")[2].rstrip("`").split()
    assert words[0] == name
    COMMANDS[name].make_context(name, words[1:])


@pytest.mark.parametrize(
    ("first", "second", "own"),
    [
        ("train", "compare", {"attention", "out"}),
        ("train", "search", {"attention", "out"}),
        ("compare", "search", {"attention", "out", "seeds", "executor"}),
    ],
)
def test_the_same_option_has_the_same_help_in_all_commands(first: str, second: str, own: set[str]) -> None:
    one, other = ({option.name: option for option in COMMANDS[name].params} for name in (first, second))
    shared = (one.keys() & other.keys()) - own
    assert len(shared) > 15
    for name in shared:
        assert one[name].help == other[name].help
        assert one[name].rich_help_panel == other[name].rich_help_panel


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("saccade comp", ["compare"]),
        ("saccade compare --ser", ["--serve"]),
        ("saccade compare white-patch -a cba", ["cbam"]),
        ("saccade show spatial_g", ["spatial_gate"]),
    ],
)
def test_a_shell_completes_commands_options_and_mechanisms(words: str, completed: list[str]) -> None:
    variables = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_SACCADE_COMPLETE": "complete_bash",
    }
    result = CliRunner().invoke(app, [], env=variables, prog_name="saccade")
    assert result.output.split() == completed


def test_completion_imports_no_torch() -> None:
    code = (
        "import sys; from saccade.cli.completion import complete_mechanism as complete\n"
        "complete(''); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_list_imports_no_torch() -> None:
    code = (
        "import sys; from saccade.cli.catalog import list_mechanisms\n"
        "list_mechanisms(contains='coord', domain='mixed', recipes=False, as_json=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "alias coord = coordinate" in done.stdout
    assert done.stdout.split()[-1] == "False"


def test_what_is_piped_has_no_colors() -> None:
    code = "from saccade.cli import main; main()"
    for words in (["list"], ["compare", "--help"], ["compare", "--no-such-option"]):
        environment = os.environ | {"TERM": "xterm-256color"}
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, env=environment)
        assert done.returncode == (2 if "--no-such-option" in words else 0)
        assert len(done.stdout + done.stderr) > 100
        assert b"\x1b" not in done.stdout + done.stderr


def test_the_version() -> None:
    assert output("--version") == f"saccade {sc.__version__}\n"


def test_options_override_the_recipe_and_settings_override_options() -> None:
    defaults = {"task": "mnist:seed=1", "epochs": 3, "optimizer": "sgd"}
    options = {"epochs": 5, "max_samples": 9, "stage": None, "settings": ["epochs=7"], "out": "somewhere"}
    assert recipe_values(defaults, options) == {
        "task": "mnist:seed=1,max_samples=9",
        "epochs": 7,
        "optimizer": "sgd",
    }
    assert recipe_values({}, {"settings": None}) == {}
    with raises(UnknownName, owner="white-patch", value="max_samples"):
        recipe_values({}, {"max_samples": 3})
    with pytest.raises(BadRecipe):
        recipe_values({}, {"settings": ["epochs"]})


def test_list_contains_searches_names_summaries_and_papers() -> None:
    listed = output("list", "--contains", "GATE")
    assert "channel_gate" in listed
    assert "\nse " in listed  # "gate each channel"
    assert "glimpse" not in listed
    assert "cbam" in output("list", "--contains", "woo, park")
    assert "channel_gate" not in output("list", "--contains", "gate", "--domain", "spatial")
    recipes = output("list", "--recipes", "--contains", "ram-")
    assert "--recipe ram-mnist" in recipes
    assert "cifar10" not in recipes
    result = CliRunner().invoke(app, ["list", "--contains", "no such text"])
    assert isinstance(result.exception, BadOption)
    assert result.exception.value == "no such text"


@pytest.mark.usefixtures("wide")
def test_names_and_summaries_are_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    paper = replace(sc.spec("se").paper, title="Of [bold]weights[/bold]", authors="A. [red]B[/red]")
    odd = replace(sc.spec("se"), name="odd_gate", summary="gate [bold]all[/bold] of it", paper=paper)
    monkeypatch.setitem(registry._registered, "odd_gate", odd)
    assert "gate [bold]all[/bold] of it" in output("list")
    shown = output("show", "odd_gate")
    assert "gate [bold]all[/bold] of it" in shown
    assert "A. [red]B[/red]: Of [bold]weights[/bold], 2018." in shown


# ------------------------------------------------------------------------------------------------ plugins

PLUGIN = """
from saccade.data import load_white_patch

def load_squares(count: int = 8, size: int = 24):
    return load_white_patch(size=size, patch=(3, 5), train=count, validation=4, test=4)

def load_nothing():
    raise RuntimeError
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two tasks, one of them in a module that does not exist."""
    (tmp_path / "square_tasks.py").write_text(PLUGIN)
    metadata = tmp_path / "square_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: square-tasks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[saccade.tasks]\nsquares = square_tasks:load_squares\nbroken = no_such_module:load\n"
        "white-patch = square_tasks:load_nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    plugins._entries.cache_clear()


@pytest.fixture(autouse=True)
def no_plugins_after() -> Any:
    yield
    plugins._entries.cache_clear()
    plugins.load.cache_clear()


@pytest.mark.usefixtures("plugin")
def test_tasks_of_plugins_are_tasks_like_any_other(tmp_path: Path) -> None:
    assert {"squares", "broken", "white-patch"} <= {*task_names()}
    assert load_task("squares:count=6").train.images.shape == (6, 3, 24, 24)
    printed = output("train", "squares:count=6", "--image-size", "32", "--print-recipe")
    assert "task: squares:count=6,size=32\n" in printed
    with raises(UnknownName, owner="squares", value="cuont"):
        load_task("squares:cuont=6")
    with raises(BadOption, owner="square-tasks", option="saccade.tasks"):
        load_task("broken")
    assert load_task("white-patch:size=24,patch=[3,5],train=4,validation=2,test=2")  # the built-in task
    arguments = ["--epochs", "1", "--batch-size", "8", "--out", str(tmp_path / "run")]
    assert "test error" in output("train", "squares", *arguments)


def test_tasks_of_plugins_are_gone_without_the_plugin() -> None:
    assert "squares" not in task_names()
    with raises(UnknownName, kind="task", value="squares"):
        load_task("squares")
    assert load_white_patch(train=4, validation=2, test=2, size=24).name == "white-patch"
