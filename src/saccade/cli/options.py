"""Options that `saccade train`, `compare` and `search` share, and how they change a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import typer

from saccade.cli.completion import complete_mechanism
from saccade.cli.terminal import echo, parse_path

# Declarations of options, one for each panel of the help.
data_option = partial(typer.Option, rich_help_panel="Data")
model_option = partial(typer.Option, rich_help_panel="Model")
training_option = partial(typer.Option, rich_help_panel="Training")
recipe_option = partial(typer.Option, rich_help_panel="Recipe")
execution_option = partial(typer.Option, rich_help_panel="Execution")
output_option = partial(typer.Option, rich_help_panel="Output")
folder_option = partial(output_option, parser=parse_path, metavar="PATH")
attention_option = partial(model_option, "-a", "--attention", autocompletion=complete_mechanism)


TaskName = Annotated[
    str | None,
    typer.Argument(
        help="NAME[:option=value,...]; default: of the recipe.",
        show_default=False,
    ),
]

Stage = Annotated[
    int | None,
    model_option(help="Stage of the small network, 1 to 3."),
]

Address = Annotated[str | None, execution_option(help="HOST:PORT of a Ray cluster; default: a new one.")]
CpusPerRun = Annotated[float | None, execution_option(help="CPUs per run with ray; default: 1.")]
GpusPerRun = Annotated[
    float | None,
    execution_option(help="GPUs per run with ray, also fractions; default: 0."),
]
Shared = Annotated[
    bool,
    execution_option("--shared", help="With ray: all nodes can write to OUT."),
]

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load the task of a run that another user has trained, although it imports code, downloads, or "
        "reads files outside of the run.",
    ),
]
Serve = Annotated[bool, output_option("--serve", help="Show the results so far on a local page.")]
Port = Annotated[int | None, output_option(help="Port of `--serve`; default: a free one.")]
Json = Annotated[bool, output_option("--json", help="Print the result as JSON to standard output.")]


class RecipeOptions(TypedDict):
    """Options that determine the recipe: where it is read, its keys, and options of its task."""

    recipe: Annotated[
        str | None,
        recipe_option(
            "--recipe",
            help="YAML file or built-in recipe; options override it.",
        ),
    ]
    epochs: Annotated[int | None, training_option(help="Number of passes over the training images.")]
    batch_size: Annotated[int | None, training_option(help="Number of images per batch.")]
    learning_rate: Annotated[float | None, training_option(help="Peak learning rate.")]
    precision: Annotated[str | None, training_option(help="Precision of Lightning, such as bf16-mixed.")]
    compile: Annotated[
        bool | None, training_option("--compile/--no-compile", help="Compile the model with torch.compile.")
    ]
    early_stopping_patience: Annotated[
        int | None, training_option(help="Stop after N epochs without a lower val. error.")
    ]
    image_size: Annotated[int | None, data_option(help="Height and width of images (task option `size`).")]
    max_samples: Annotated[int | None, data_option(help="Images per split (task option `max_samples`).")]
    data_root: Annotated[str | None, data_option(help="Folder of data sets (task option `root`).")]
    download: Annotated[
        bool | None,
        data_option("--download/--no-download", help="Download a missing data set (option `download`)."),
    ]
    on_bad_image: Annotated[
        Literal["fail", "skip"] | None,
        data_option(help="Stop at an unreadable image, or skip it."),
    ]


class SharedOptions(RecipeOptions):
    """Options that `train`, `compare` and `search` share."""

    logger: Annotated[
        Literal["auto", "none", "csv", "tensorboard", "wandb", "mlflow"],
        output_option(
            metavar="NAME",
            help="auto (TensorBoard if installed), none, csv, tensorboard, wandb or mlflow.",
        ),
    ]
    settings: Annotated[
        list[str] | None,
        recipe_option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; repeatable."),
    ]
    print_recipe: Annotated[bool, recipe_option("--print-recipe", help="Print the complete recipe and exit.")]
    as_json: Json


#: Defaults of shared options other than None.
_DEFAULTS = {"logger": "auto", "print_recipe": False, "as_json": False}
#: Option of the command line -> option of the task.
_TASK_OPTIONS = {
    "image_size": "size",
    "max_samples": "max_samples",
    "data_root": "root",
    "download": "download",
    "on_bad_image": "on_bad_image",
    "workers": "workers",
}


def share_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `**options` of a command by `SharedOptions`, in the signature that typer reads.

    The help lists the options of the recipe before the keyword-only parameters of the command.
    """
    signature = inspect.signature(command, eval_str=True)
    *own, _ = signature.parameters.values()
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation)
        for name, annotation in get_type_hints(SharedOptions, include_extras=True).items()
    ]
    recipe = len(RecipeOptions.__annotations__)
    first = sum(parameter.kind is Parameter.POSITIONAL_OR_KEYWORD for parameter in own)
    order = [*own[:first], *shared[:recipe], *own[first:], *shared[recipe:]]
    command.__signature__ = signature.replace(parameters=order)  # type: ignore[attr-defined]
    return command


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
    keys = (*Recipe.__annotations__, "attentions", "seeds")
    values = {**defaults, **{key: present[key] for key in keys if key in present}}
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
