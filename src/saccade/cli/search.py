"""`saccade search`: which attention helps a network on a task, and where."""

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
    TaskName,
    attention_option,
    execution_option,
    folder_option,
    model_option,
    print_notes,
    recipe_values,
    share_options,
    training_option,
)
from saccade.cli.terminal import announce, echo, reserve_stdout

_LIMIT = "or such as +10%, over none."
_PER_STUDY = ("attention", "attentions", "seed", "seeds")


@share_options
def search(
    task: TaskName = None,
    attention: Annotated[
        list[str] | None,
        attention_option(
            help="NAME[:option=value,...]; repeatable. Default: all.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        model_option(help="A kind of site, or PATH[+PATH...]; repeatable."),
    ] = None,
    backbone: Annotated[
        str | None,
        model_option(help="Model of torchvision or timm, or small."),
    ] = None,
    max_parameters: Annotated[str | None, model_option(help=f"Most parameters, {_LIMIT}")] = None,
    max_flops: Annotated[str | None, model_option(help=f"Most FLOPs, {_LIMIT}")] = None,
    max_latency: Annotated[str | None, model_option(help=f"Highest latency in ms, {_LIMIT}")] = None,
    max_memory: Annotated[str | None, model_option(help=f"Most bytes of a step, {_LIMIT}")] = None,
    out: Annotated[
        Path | None, folder_option(help="Folder of the search; default: runs/search-TASK.")
    ] = None,
    *,
    budget: Annotated[
        str,
        execution_option(help="Time, as 2h, or runs, as 40runs."),
    ] = "1h",
    finalists: Annotated[int, execution_option(help="Candidates trained anew and tested.")] = 3,
    seeds: Annotated[int, training_option(help="Seeds of each finalist.")] = 5,
    executor: Annotated[
        Literal["local", "ray"],
        execution_option(help="local, or ray (a cluster)."),
    ] = "local",
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    shared: Shared = False,
    serve: Serve = False,
    port: Port = None,
    **options: Unpack[SharedOptions],
) -> None:
    """Find the attention that helps a network on a task, where it goes, and its cost.

    Run the command again after an interruption, or twice to share the work.
    """
    announce()
    costs = {
        "max_parameters": max_parameters,
        "max_flops": max_flops,
        "max_latency": max_latency,
        "max_memory": max_memory,
    }
    from saccade.cli.executors import create_executor
    from saccade.cli.folders import search_folder
    from saccade.cli.live import page_port
    from saccade.cli.search_display import LiveSearchDisplay, SearchDisplay, print_answer
    from saccade.config import Recipe, read_recipe
    from saccade.experiments import Ray
    from saccade.search import FINALISTS, Budget, Limit
    from saccade.search import search as run_search
    from saccade.viz import write_report

    allowed = Budget.parse(budget)
    limits = [Limit.parse(option, text) for option, text in costs.items() if text is not None]
    defaults = read_recipe(options["recipe"]) if options["recipe"] else {}
    mapping = recipe_values(defaults, {"task": task, "backbone": backbone, **options})
    recipe = Recipe.from_mapping({key: value for key, value in mapping.items() if key not in _PER_STUDY})
    run_executor = create_executor(
        "search", executor, address=address, cpus=cpus_per_run, gpus=gpus_per_run, shared=shared
    )
    if options["print_recipe"]:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    out = out or search_folder(recipe.task)
    to_stderr, live = options["as_json"], page_port("search", serve, port)
    display = (
        SearchDisplay(recipe.task, to_stderr=to_stderr)
        if live is None
        else LiveSearchDisplay(recipe.task, out / FINALISTS, live, to_stderr=to_stderr)
    )
    with reserve_stdout(to_stderr), display:
        results = run_search(
            recipe,
            out,
            allowed,
            mechanisms=attention or (),
            where=where or (),
            limits=limits,
            finalists=finalists,
            seeds=seeds,
            observer=display,
            logger=options["logger"],
            executor=run_executor if isinstance(run_executor, Ray) else None,
        )
        page = write_report(out / FINALISTS)
    print_notes(results["task"])
    if options["as_json"]:
        typer.echo(json.dumps(results, indent=1))
        return
    echo(f"report: {page.resolve()}    results: {(out / 'search.json').resolve()}")
    print_answer(results)
