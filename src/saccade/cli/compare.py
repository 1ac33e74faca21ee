"""`saccade compare` and `saccade report`: a grid of runs, its leaderboard and its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Unpack

import typer

from saccade.cli.options import (
    Address,
    CpusPerRun,
    GpusPerRun,
    Port,
    Serve,
    Shared,
    SharedOptions,
    Stage,
    TaskName,
    attention_option,
    execution_option,
    folder_option,
    print_notes,
    recipe_values,
    share_options,
    training_option,
)
from saccade.cli.terminal import announce, echo, path_argument, reserve_stdout


@share_options
def compare(
    task: TaskName = None,
    attention: Annotated[
        list[str] | None,
        attention_option(help="NAME[:option=value,...][@PLACE+PLACE...], or none; repeatable."),
    ] = None,
    seeds: Annotated[int | None, training_option(help="Number of runs per mechanism.")] = None,
    out: Annotated[Path | None, folder_option(help="Folder of the comparison; default: runs/TASK.")] = None,
    stage: Stage = None,
    *,
    executor: Annotated[
        Literal["local", "processes", "ray"],
        execution_option(
            metavar="NAME", help="local, processes (several runs at a time) or ray (a cluster)."
        ),
    ] = "local",
    jobs: Annotated[int | None, execution_option(help="Runs at a time of processes; default: 2.")] = None,
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    shared: Shared = False,
    serve: Serve = False,
    port: Port = None,
    **options: Unpack[SharedOptions],
) -> None:
    """Train models with and without attention over several seeds; write a leaderboard and a report.

    Run the command again after an interruption, or with more seeds or mechanisms, and only the missing runs
    are trained.
    """
    announce()
    values = {"task": task, "attentions": attention or None, "seeds": seeds, "stage": stage, **options}

    from saccade.cli.display import ComparisonDisplay
    from saccade.cli.executors import create_executor
    from saccade.cli.folders import comparison_folder
    from saccade.cli.live import LiveDisplay, page_port
    from saccade.config import read_recipe, resolve
    from saccade.experiments import FIRST_EXPERIMENT, Comparison
    from saccade.experiments import compare as run_comparison
    from saccade.results import caution, finding
    from saccade.viz import write_report

    defaults = read_recipe(options["recipe"]) if options["recipe"] else {"attentions": list(FIRST_EXPERIMENT)}
    comparison = Comparison.from_mapping(recipe_values(defaults, values))
    for run in comparison.runs()[: len(comparison.attentions)]:
        resolve(run)
    if options["print_recipe"]:
        typer.echo(comparison.to_yaml(), nl=False)
        return
    run_executor = create_executor(
        "compare",
        executor,
        jobs=jobs,
        address=address,
        cpus=cpus_per_run,
        gpus=gpus_per_run,
        shared=shared,
    )
    out = out or comparison_folder(comparison)
    title, to_stderr, live = comparison.training.task, options["as_json"], page_port("compare", serve, port)
    display = (
        ComparisonDisplay(title, to_stderr=to_stderr)
        if live is None
        else LiveDisplay(title, out, live, comparison, to_stderr=to_stderr)
    )
    with reserve_stdout(to_stderr), display:
        summary = run_comparison(comparison, out, display, run_executor, options["logger"])
        page = write_report(out)
    print_notes(summary["task"])
    if options["as_json"]:
        typer.echo(json.dumps(summary, indent=1))
        return
    for sentence in (finding(summary["leaderboard"]), caution(summary["leaderboard"])):
        if sentence:
            echo(sentence.replace("\N{MINUS SIGN}", "-"))  # terminals may lack the character
    out = out.resolve()
    echo(f"report: {page.resolve()}    table: {out / 'leaderboard.csv'}    results: {out / 'results.json'}")


def report(
    folder: Annotated[Path, path_argument(help="Folder of a comparison.")],
) -> None:
    """Write the report of a comparison again, from its results."""
    from saccade.viz import write_report

    echo(f"report: {write_report(folder).resolve()}")
