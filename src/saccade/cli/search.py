"""`saccade search`: which attention helps a network on a task, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import (
    Json,
    TaskName,
    attention_option,
    data_option,
    execution_option,
    model_option,
    output_option,
    print_notes,
    recipe_option,
    recipe_values,
    training_option,
)
from saccade.cli.terminal import announce, echo, parse_path

_LIMIT = "or such as +10%, over none."
_PER_STUDY = ("attention", "attentions", "seed", "seeds")


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
        model_option(
            help="input, stem, residual, stage, head, or PATH[+PATH...] as `saccade sites` lists them; "
            "repeatable. Default: all."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        model_option(help="Model of torchvision or timm, or small."),
    ] = None,
    max_parameters: Annotated[str | None, model_option(help=f"Most parameters, {_LIMIT}")] = None,
    max_flops: Annotated[str | None, model_option(help=f"Most FLOPs, {_LIMIT}")] = None,
    max_latency: Annotated[str | None, model_option(help=f"Highest latency in ms, {_LIMIT}")] = None,
    max_memory: Annotated[str | None, model_option(help=f"Most bytes of a step, {_LIMIT}")] = None,
    budget: Annotated[
        str,
        execution_option(help="Training time, such as 2h, or runs, such as 40runs."),
    ] = "1h",
    finalists: Annotated[int, execution_option(help="Candidates that are trained anew and tested.")] = 3,
    seeds: Annotated[int, execution_option(help="Seeds of each finalist.")] = 5,
    epochs: Annotated[int | None, training_option(help="Number of passes over the training images.")] = None,
    batch_size: Annotated[int | None, training_option(help="Number of images per batch.")] = None,
    learning_rate: Annotated[float | None, training_option(help="Peak learning rate.")] = None,
    image_size: Annotated[
        int | None, data_option(help="Height and width of images (task option `size`).")
    ] = None,
    max_samples: Annotated[
        int | None, data_option(help="Images per split (task option `max_samples`).")
    ] = None,
    recipe: Annotated[
        str | None,
        recipe_option(
            "--recipe",
            help="YAML file or built-in recipe; options override it.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        recipe_option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        output_option(
            parser=parse_path, metavar="PATH", help="Folder of the search; default: runs/search-TASK."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the attention that helps a network on a task, where it goes, and what it costs.

    Candidates are chosen by their validation error. The best are trained anew with fresh seeds and tested,
    and the last sentence says whether one of them helps. Run the command again after an interruption, and the
    search continues; run it twice at the same time, and both processes work on it.
    """
    announce()
    values = {
        "task": task,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "max_samples": max_samples,
        "settings": settings,
    }
    costs = {
        "max_parameters": max_parameters,
        "max_flops": max_flops,
        "max_latency": max_latency,
        "max_memory": max_memory,
    }
    from saccade.cli.folders import search_folder
    from saccade.cli.search_display import SearchDisplay, print_answer
    from saccade.config import Recipe, read_recipe
    from saccade.search import FINALISTS, Budget, Limit
    from saccade.search import search as run_search
    from saccade.viz import write_report

    allowed = Budget.parse(budget)
    limits = [Limit.parse(option, text) for option, text in costs.items() if text is not None]
    mapping = recipe_values(read_recipe(recipe) if recipe else {}, values)
    mapping = {key: value for key, value in mapping.items() if key not in _PER_STUDY}
    run_recipe = Recipe.from_mapping(mapping | ({} if backbone is None else {"backbone": backbone}))
    out = out or search_folder(run_recipe.task)
    with SearchDisplay(run_recipe.task, to_stderr=as_json) as display:
        results = run_search(
            run_recipe,
            out,
            allowed,
            mechanisms=attention or (),
            where=where or (),
            limits=limits,
            finalists=finalists,
            seeds=seeds,
            observer=display,
        )
    page = write_report(out / FINALISTS)
    print_notes(results["task"])
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    print_answer(results)
    echo(f"report: {page.resolve()}    results: {(out / 'search.json').resolve()}")
