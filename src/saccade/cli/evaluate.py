"""saccade evaluate: what a trained network is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli.train import Json, name_skipped

_WORST = 10  # classes that are shown, and classes up to which the whole confusion matrix is
_CONFUSED = 5  # pairs of classes that are shown otherwise


def evaluate(
    network: Annotated[
        Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="Folder of a run, or its .ckpt file.")
    ],
    task: Annotated[
        str | None, typer.Argument(help="NAME[:option=value,...] of the same classes; by default the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test a trained network again, on its own task or on another one of the same classes.

    Gives the error with its 95% interval, that of each class, what is taken for what, and where the attention
    looks.
    """
    from rich.console import Console

    from saccade.training.evaluation import evaluation

    result = evaluation(network, task)
    name_skipped(result)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    error = result["error"]
    typer.echo(
        f"{result['task']}: test error {error['mean']:.2%} of {result['images']} images "
        f"(95% interval {error['low']:.2%} to {error['high']:.2%}; chance {result['chance_error']:.2%}), "
        f"loss {result['loss']:.4f}"
    )
    console = Console(highlight=False)
    if len(result["classes"]) <= _WORST:
        console.print(_matrix(result))
    else:
        console.print(_worst(result))
        typer.echo(_confused(result))
    where = result["localization"]
    if where:
        sign = max(("positive", "negative"), key=lambda sign: where[sign]["precision"])
        typer.echo(
            f"attention at {where['path']}, {sign}: average precision on the target "
            f"{where[sign]['precision']:.2f}, chance {where['chance']:.2f}; "
            f"its peak in the target {where[sign]['pointing']:.0%}"
        )


def _matrix(result: dict[str, Any]) -> Any:
    """Return the confusion matrix as the terminal shows it."""
    from rich.table import Table

    out = Table(box=None, pad_edge=False)
    out.add_column("is / taken for")
    for its in result["classes"]:
        out.add_column(its["name"], justify="right")
    out.add_column("error", justify="right")
    for row, its in zip(result["confusion"], result["classes"], strict=True):
        out.add_row(its["name"], *map(str, row), _percent(its["error"]))
    return out


def _worst(result: dict[str, Any]) -> Any:
    """Return the classes of the largest error as the terminal shows them."""
    from rich.table import Table

    title = f"the {_WORST} classes of the largest error, of {len(result['classes'])}"
    out = Table(title=title, title_justify="left", box=None, pad_edge=False)
    out.add_column("class")
    out.add_column("images", justify="right")
    out.add_column("error", justify="right")
    tested = [its for its in result["classes"] if its["images"]]
    for its in sorted(tested, key=lambda its: -its["error"])[:_WORST]:
        out.add_row(its["name"], str(its["images"]), _percent(its["error"]))
    return out


def _confused(result: dict[str, Any]) -> str:
    """Return the pairs of classes that are confused most as a sentence."""
    names = [its["name"] for its in result["classes"]]
    pairs = [
        (count, f"{names[true]} for {names[answer]} ({count})")
        for true, row in enumerate(result["confusion"])
        for answer, count in enumerate(row)
        if count and answer != true
    ]
    most = [pair for _, pair in sorted(pairs, key=lambda its: -its[0])[:_CONFUSED]]
    return f"taken most often: {', '.join(most)}" if most else "no image is taken for another class"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
