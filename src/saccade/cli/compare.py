"""saccade compare, saccade report: a grid of runs, its leaderboard, its page."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.train import (
    BatchSize,
    Compile,
    DataRoot,
    Download,
    EarlyStoppingPatience,
    Epochs,
    ImageSize,
    Json,
    LearningRate,
    Logger,
    LoggerName,
    MaxSamples,
    OnBadImage,
    Precision,
    PrintRecipe,
    RecipeName,
    Settings,
    Stage,
    name_skipped,
    recipe_of,
)


class ExecutorName(StrEnum):
    local = "local"
    processes = "processes"
    ray = "ray"


def compare(
    task: Annotated[
        str | None,
        typer.Argument(
            help="NAME[:option=value,...]: white-patch, cifar10, folder:PATH, python:MODULE.CLASS ..."
        ),
    ] = None,
    attention: Annotated[
        list[str] | None, typer.Option("-a", "--attention", help="NAME[:option=value,...]; repeat for more.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each attention.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("runs/compare"),
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
    executor: Annotated[
        ExecutorName, typer.Option(help="Where runs are trained: local, processes or ray.")
    ] = ExecutorName.local,
    jobs: Annotated[int, typer.Option(help="Runs at a time, with --executor processes.")] = 2,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster; by default a new one of this machine.")
    ] = None,
    cpus_per_run: Annotated[float, typer.Option(help="CPUs of a run on a Ray cluster.")] = 1,
    gpus_per_run: Annotated[float, typer.Option(help="GPUs of a run there; 0.25 lets four share one.")] = 0,
    shared: Annotated[
        bool, typer.Option("--shared", help="All nodes share OUT: a run whose node dies goes on elsewhere.")
    ] = False,
    logger: Logger = LoggerName.auto,
    settings: Settings = None,
    print_recipe: PrintRecipe = False,
    as_json: Json = False,
) -> None:
    """Train a network with and without attention, over several seeds, and write leaderboard and report.

    Killed and started again with the same arguments, or with more seeds or attentions, it does only what is
    missing.
    """
    from saccade.cli.display import ComparisonDisplay
    from saccade.config.builtin import read_recipe
    from saccade.experiments import FIRST_EXPERIMENT, Comparison
    from saccade.experiments import compare as run
    from saccade.experiments.executors import Executor, Local, Processes
    from saccade.results import caution, finding
    from saccade.viz import write_report

    given = {
        "task": task,
        "attentions": attention or None,
        "seeds": seeds,
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
    }
    values = read_recipe(recipe) if recipe else {"attentions": list(FIRST_EXPERIMENT)}
    comparison = Comparison.from_mapping(recipe_of(values, given, settings, of_task))
    if print_recipe:
        typer.echo(comparison.to_yaml(), nl=False)
        return
    chosen: Executor = Local()
    if executor is ExecutorName.processes:
        chosen = Processes(jobs)
    elif executor is ExecutorName.ray:
        from saccade.experiments.executors.ray import Ray

        chosen = Ray(address, cpus_per_run, gpus_per_run, shared)
    with ComparisonDisplay(comparison.training.task, to_stderr=as_json) as display:
        summary = run(comparison, out, display, chosen, logger.value)
    page = write_report(out)
    name_skipped(summary["task"])
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    else:
        for sentence in (finding(summary["leaderboard"]), caution(summary["leaderboard"])):
            if sentence:
                typer.echo(sentence.replace("\N{MINUS SIGN}", "-"))  # which every terminal knows
        typer.echo(f"report: {page}    table: {out / 'leaderboard.csv'}    results: {out / 'results.json'}")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")],
) -> None:
    """Write the page of a comparison again."""
    from saccade.viz import write_report

    typer.echo(f"report: {write_report(folder)}")
