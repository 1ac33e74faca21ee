"""Options that `saccade train` and `saccade compare` share, and how they change a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from saccade.cli.terminal import echo

# Declarations of options, one for each panel of the help.
data_option = partial(typer.Option, rich_help_panel="Data")
model_option = partial(typer.Option, rich_help_panel="Model")
training_option = partial(typer.Option, rich_help_panel="Training")
recipe_option = partial(typer.Option, rich_help_panel="Recipe")
execution_option = partial(typer.Option, rich_help_panel="Execution")
output_option = partial(typer.Option, rich_help_panel="Output")


class OnBadImageName(StrEnum):
    fail = "fail"
    skip = "skip"


class LoggerName(StrEnum):
    auto = "auto"
    none = "none"
    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


TaskName = Annotated[
    str | None,
    typer.Argument(
        help="Task as NAME[:option=value,...], for example white-patch, cifar10, folder:PATH, "
        "python:MODULE.CLASS or huggingface:PATH. Default: the task of the recipe.",
        show_default=False,
    ),
]

# Options of the task. They are written to the text of the task.
ImageSize = Annotated[int | None, data_option(help="Height and width of the images (task option `size`).")]
MaxSamples = Annotated[
    int | None, data_option(help="Maximum number of images per split (task option `max_samples`).")
]
DataRoot = Annotated[str | None, data_option(help="Folder of downloaded data sets (task option `root`).")]
Download = Annotated[
    bool | None,
    data_option("--download/--no-download", help="Download a missing data set (task option `download`)."),
]
OnBadImage = Annotated[
    OnBadImageName | None,
    data_option(help="Stop at an unreadable image, or skip and report it (task option `on_bad_image`)."),
]

# Keys of the recipe.
Stage = Annotated[
    int | None, model_option(help="Stage of the small network after which attention is inserted, 1 to 3.")
]
Epochs = Annotated[int | None, training_option(help="Number of passes over the training images.")]
BatchSize = Annotated[int | None, training_option(help="Number of images per batch.")]
LearningRate = Annotated[float | None, training_option(help="Peak learning rate.")]
Precision = Annotated[
    str | None, training_option(help="Precision of Lightning, for example 32-true or bf16-mixed.")
]
Compile = Annotated[
    bool | None, training_option("--compile/--no-compile", help="Compile the model with torch.compile.")
]
EarlyStoppingPatience = Annotated[
    int | None, training_option(help="Stop after this many epochs without a lower validation error.")
]
RecipeName = Annotated[
    str | None,
    recipe_option(
        "--recipe",
        help="YAML file, or a built-in recipe (see `saccade list --recipes`). Options override its keys.",
    ),
]
Settings = Annotated[
    list[str] | None,
    recipe_option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; repeatable."),
]
PrintRecipe = Annotated[bool, recipe_option("--print-recipe", help="Print the complete recipe and exit.")]

Logger = Annotated[
    LoggerName,
    output_option(
        help="Logger of the curves, in addition to metrics.csv. auto: TensorBoard files if a writer is "
        "installed; none, csv: no other logger."
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load the task of a run that another user has trained, although it imports code, downloads, or "
        "reads files outside of the run.",
    ),
]
Json = Annotated[bool, output_option("--json", help="Print the result as JSON to standard output.")]

#: Option of the command line -> option of the task.
_TASK_OPTIONS = {
    "image_size": "size",
    "max_samples": "max_samples",
    "data_root": "root",
    "download": "download",
    "on_bad_image": "on_bad_image",
    "workers": "workers",
}
#: Options of the command line that are keys of the recipe.
_RECIPE_KEYS = (
    "task",
    "attention",
    "attentions",
    "seed",
    "seeds",
    "epochs",
    "stage",
    "batch_size",
    "learning_rate",
    "precision",
    "compile",
    "early_stopping_patience",
)


def recipe_values(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe: defaults, overridden by the options of the command line.

    Args:
        defaults: Values of a recipe file, or none.
        options: Options of a command by name. None means that the option is absent.

    Raises:
        UnknownName: The task does not have one of the options.
        BadRecipe: A value of `--set` is malformed.
    """
    from saccade.config import Recipe, read_settings
    from saccade.data import with_options

    present = {name: value for name, value in options.items() if value is not None}
    values = {**defaults, **{key: present[key] for key in _RECIPE_KEYS if key in present}}
    values |= read_settings(present.get("settings", []))
    task_options = {name: present[option] for option, name in _TASK_OPTIONS.items() if option in present}
    if task_options:
        values["task"] = with_options(str(values.get("task", Recipe.task)), task_options)
    return values


def print_notes(task: Mapping[str, Any]) -> None:
    """Print to standard error how the splits were chosen, and which images were skipped."""
    for note in task.get("notes", ()):
        echo(f"saccade: {note}", err=True)
    for image in task["skipped"]:
        echo(f"saccade: skipped: {image}", err=True)
