"""`saccade train`: train and test one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Unpack

import typer

from saccade.cli.options import (
    SharedOptions,
    Stage,
    TaskName,
    attention_option,
    data_option,
    execution_option,
    folder_option,
    print_notes,
    recipe_values,
    share_options,
    training_option,
)
from saccade.cli.terminal import announce, echo


@share_options
def train(
    task: TaskName = None,
    attention: Annotated[
        str | None, attention_option(help="NAME[:option=value,...][@PLACE+PLACE...], or none.")
    ] = None,
    seed: Annotated[int | None, training_option(help="Seed of all random numbers of the run.")] = None,
    out: Annotated[Path | None, folder_option(help="Folder of the run; default: a new one in runs/.")] = None,
    stage: Stage = None,
    resume: Annotated[bool, execution_option("--resume", help="Continue an interrupted run.")] = False,
    *,
    workers: Annotated[int | None, data_option(help="Threads that decode images (option `workers`).")] = None,
    devices: Annotated[int, execution_option(help="GPUs, or CPU processes, per node.")] = 1,
    nodes: Annotated[int, execution_option(help="Number of nodes. Run the same command on each.")] = 1,
    strategy: Annotated[str, execution_option(help="Strategy of Lightning: auto, ddp or fsdp.")] = "auto",
    **options: Unpack[SharedOptions],
) -> None:
    """Train one model, test it, and save its attention maps.

    On Ctrl-C or SIGTERM, a checkpoint is saved. After a hard kill, the checkpoint of the last completed epoch
    remains. `--resume` continues from the checkpoint and ends with the same weights as an uninterrupted run.
    """
    announce()
    values = {
        "task": task,
        "attention": attention,
        "seed": seed,
        "stage": stage,
        "workers": workers,
        **options,
    }

    from saccade.cli.display import RunDisplay
    from saccade.cli.folders import run_folder
    from saccade.config import Recipe, read_recipe, resolve
    from saccade.training import Hardware
    from saccade.training import train as train_run

    defaults = read_recipe(options["recipe"]) if options["recipe"] else {}
    recipe = Recipe.from_mapping(recipe_values(defaults, values))
    resolve(recipe)
    if options["print_recipe"]:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    out = out or run_folder(recipe)
    with RunDisplay(f"training in {out.resolve()}") as display:
        result = train_run(
            recipe,
            out,
            resume=resume,
            report=display.progressed,
            hardware=Hardware(devices, nodes, strategy),
            logger=options["logger"],
        )
    print_notes(result["task"])
    if options["as_json"]:
        typer.echo(json.dumps(result, indent=1))
    else:
        echo(f"test error {result['error']:.2%} of {result['task']['test']} images; run: {out.resolve()}")
