"""saccade train: one run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

#: Options that every command which trains shares, under the names of the recipe's keys.
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
Stage = Annotated[int | None, typer.Option(help="Stage after which the attention stands, 1 to 3.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak of the one-cycle schedule.")]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed ..., as Lightning names it.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Whether the network is compiled.")
]
EarlyStoppingPatience = Annotated[
    int | None, typer.Option(help="Stop after so many epochs without a better error.")
]
#: Options of the task, under names of their own; the task's text gets them.
ImageSize = Annotated[int | None, typer.Option(help="Side of the images: the task's option size.")]
MaxSamples = Annotated[int | None, typer.Option(help="Maximum images per split (task option `max_samples`).")]
DataRoot = Annotated[str | None, typer.Option(help="Folder of a standard data set: its option root.")]
Download = Annotated[
    bool | None,
    typer.Option("--download/--no-download", help="Whether to download it: its option download."),
]


class OnBadImageName(StrEnum):
    skip = "skip"
    fail = "fail"


OnBadImage = Annotated[
    OnBadImageName | None,
    typer.Option(
        help="Leave out an image that cannot be read, and say so, or stop: its option on_bad_image."
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="A YAML file, or one of saccade list --recipes; options override its keys."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the recipe; repeat for more."),
]
PrintRecipe = Annotated[bool, typer.Option("--print-recipe", help="Print the whole recipe and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


class LoggerName(StrEnum):
    auto = "auto"
    none = "none"
    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


Logger = Annotated[
    LoggerName,
    typer.Option(
        help="Where the curves go besides metrics.csv; auto: to TensorBoard's files, if it is installed; "
        "none or csv: nowhere."
    ),
]


def recipe_of(
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    settings: list[str] | None,
    of_task: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keys of a recipe: `values`, overridden by what is given, and not None, on the command line.

    Raises `UnknownName` if an option in `of_task` is not the task's.
    """
    from saccade.config import Recipe, read_settings
    from saccade.data import with_options

    values = {**values, **_present(given), **read_settings(settings or [])}
    if options := _present(of_task):
        values["task"] = with_options(str(values.get("task", Recipe.task)), options)
    return values


def _present(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def name_skipped(task: Mapping[str, Any]) -> None:
    """Say on standard error which images were left out."""
    for image in task.get("skipped", ()):  # results of older versions have no such list
        typer.echo(f"saccade: skipped: {image}", err=True)


def train(
    task: Annotated[
        str | None,
        typer.Argument(
            help="NAME[:option=value,...]: white-patch, cifar10, folder:PATH, python:MODULE.CLASS ..."
        ),
    ] = None,
    attention: Annotated[
        str | None, typer.Option("-a", "--attention", help="NAME[:option=value,...]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the weights and of the order of images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    stage: Stage = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    compile: Compile = None,
    early_stopping_patience: EarlyStoppingPatience = None,
    image_size: ImageSize = None,
    max_samples: MaxSamples = None,
    data_root: DataRoot = None,
    download: Download = None,
    on_bad_image: OnBadImage = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that decode images: its option workers.")
    ] = None,
    devices: Annotated[int, typer.Option(help="GPUs, or processes of a CPU, on each machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines; start the same command on each.")] = 1,
    strategy: Annotated[str, typer.Option(help="How devices share the work: auto, ddp, fsdp.")] = "auto",
    logger: Logger = LoggerName.auto,
    settings: Settings = None,
    print_recipe: PrintRecipe = False,
    as_json: Json = False,
) -> None:
    """Train one network, test it, and look where it looks.

    Asked to stop (Ctrl-C, SIGTERM), it writes a checkpoint first; killed, it has that of the last whole
    epoch. With --resume it goes on from there, to the same weights.
    """
    from saccade.cli.display import RunDisplay
    from saccade.config import Recipe, read_recipe
    from saccade.training import Hardware
    from saccade.training import train as run

    given = {
        "task": task,
        "attention": attention,
        "seed": seed,
        "epochs": epochs,
        "stage": stage,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "compile": compile,
        "early_stopping_patience": early_stopping_patience,
    }
    of_task = {
        "size": image_size,
        "max_samples": max_samples,
        "root": data_root,
        "download": download,
        "on_bad_image": on_bad_image and on_bad_image.value,
        "workers": workers,
    }
    chosen = Recipe.from_mapping(recipe_of(read_recipe(recipe) if recipe else {}, given, settings, of_task))
    if print_recipe:
        typer.echo(chosen.to_yaml(), nl=False)
        return
    with RunDisplay() as display:
        hardware = Hardware(devices, nodes, strategy)
        result = run(
            chosen,
            out,
            resume=resume,
            report=display.progressed,
            hardware=hardware,
            logger=logger.value,
        )
    name_skipped(result["task"])
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        typer.echo(
            f"test error {result['error']:.2%} of {result['task']['test']} images; the run is in {out}"
        )
