"""`saccade compare` and `saccade report`: a grid of runs, its leaderboard and its report."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

import typer

from saccade.cli.options import (
    SharedOptions,
    TaskName,
    attention_option,
    execution_option,
    folder_option,
    output_option,
    print_notes,
    recipe_values,
    share_options,
    training_option,
)
from saccade.cli.terminal import announce, echo, path_argument


@share_options
def compare(
    task: TaskName = None,
    attention: Annotated[
        list[str] | None,
        attention_option(help="NAME[:option=value,...][@PLACE+PLACE...], or none; repeatable."),
    ] = None,
    seeds: Annotated[int | None, training_option(help="Number of runs per mechanism.")] = None,
    out: Annotated[Path | None, folder_option(help="Folder of the comparison; default: runs/TASK.")] = None,
    *,
    executor: Annotated[
        Literal["local", "processes", "ray"],
        execution_option(
            metavar="NAME", help="local, processes (several runs at a time) or ray (a cluster)."
        ),
    ] = "local",
    jobs: Annotated[int | None, execution_option(help="Runs at a time of processes; default: 2.")] = None,
    address: Annotated[
        str | None, execution_option(help="HOST:PORT of a Ray cluster; default: a new one.")
    ] = None,
    cpus_per_run: Annotated[float | None, execution_option(help="CPUs per run with ray; default: 1.")] = None,
    gpus_per_run: Annotated[
        float | None,
        execution_option(help="GPUs per run with ray, also fractions; default: 0."),
    ] = None,
    shared: Annotated[
        bool,
        execution_option("--shared", help="With ray: all nodes can write to OUT."),
    ] = False,
    serve: Annotated[
        bool,
        output_option(
            "--serve",
            help="Serve the report so far, and the time left, on a local page until the comparison ends.",
        ),
    ] = False,
    port: Annotated[int | None, output_option(help="Port of `--serve`; default: a free one.")] = None,
    **options: Unpack[SharedOptions],
) -> None:
    """Train models with and without attention over several seeds; write a leaderboard and a report.

    Run the command again after an interruption, or with more seeds or mechanisms, and only the missing runs
    are trained.
    """
    announce()
    values = {"task": task, "attentions": attention or None, "seeds": seeds, **options}

    from saccade.cli.display import ComparisonDisplay
    from saccade.cli.folders import comparison_folder
    from saccade.cli.live import LiveDisplay
    from saccade.config import read_recipe, resolve
    from saccade.errors import bad_option
    from saccade.experiments import FIRST_EXPERIMENT, Comparison, Executor, Local, Processes, Ray
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
    create: Callable[..., Executor] = {"local": Local, "processes": Processes, "ray": Ray}[executor]
    given: dict[str, Any] = {
        "jobs": jobs,
        "address": address,
        "cpus": cpus_per_run,
        "gpus": gpus_per_run,
        "shared": shared or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in inspect.signature(create).parameters:
            other = "processes" if name == "jobs" else "ray"
            expected = f"applies to --executor {other}, not to --executor {executor}"
            raise bad_option("compare", expected, **{name: value})
    run_executor = create(**given)
    out = out or comparison_folder(comparison)
    if port is not None and not serve:
        raise bad_option("compare", "applies to --serve", port=port)
    to_stderr = options["as_json"]
    display = (
        LiveDisplay(comparison, out, port or 0, to_stderr=to_stderr)
        if serve
        else ComparisonDisplay(comparison.training.task, to_stderr=to_stderr)
    )
    with display:
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
