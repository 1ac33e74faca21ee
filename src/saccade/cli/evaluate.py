"""saccade evaluate: test a trained model again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from saccade.cli.options import Json, Trust, print_notes
from saccade.cli.terminal import announce, console, echo, path_argument
from saccade.errors import printable

if TYPE_CHECKING:
    from saccade.results import Evaluation

_MAX_CLASSES = 10  # largest confusion matrix that is shown; of more classes, the worst ones are
_MAX_PAIRS = 5  # confused pairs of classes that are shown otherwise


def evaluate(
    network: Annotated[
        Path, path_argument(metavar="RUN_OR_CHECKPOINT", help="Folder of a run, or its .ckpt file.")
    ],
    task: Annotated[
        str | None,
        typer.Argument(help="NAME[:option=value,...] with the same classes; default: the task of the run."),
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Re-evaluate a run on its own task or on another one with the same classes.

    Reports the error with its 95% interval, the error per class, the confusion matrix, and the localization
    of the attention.
    """
    announce()
    from saccade.results import better_polarity
    from saccade.training import evaluate_run

    result = evaluate_run(network, task, trust=trust)
    print_notes(result)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    error = result["error"]
    interval = "one minus the mean IoU; "
    if error["low"] is not None:
        interval = f"95% interval {error['low']:.2%} to {error['high']:.2%}; "
    echo(
        f"{result['task']}: test error {error['mean']:.2%} of {result['images']} images "
        f"({interval}chance {result['chance_error']:.2%}), loss {result['loss']:.4f}"
    )
    terminal = console()
    if len(result["classes"]) <= _MAX_CLASSES:
        terminal.print(_confusion_table(result))
    else:
        terminal.print(_worst_classes(result))
        echo(_confused_pairs(result))
    if localization := result["localization"]:
        polarity = better_polarity(localization)
        echo(
            f"attention at {localization['path']}, {polarity} polarity: average precision on the target "
            f"{localization[polarity]['precision']:.2f}, chance {localization['chance']:.2f}; "
            f"pointing game {localization[polarity]['pointing']:.0%}"
        )


def _table(columns: Sequence[str], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _confusion_table(result: Evaluation) -> Table:
    """Return the confusion matrix as a table."""
    table = _table(["true / predicted", *(printable(row["name"], 40) for row in result["classes"]), "error"])
    for counts, row in zip(result["confusion"], result["classes"], strict=True):
        table.add_row(printable(row["name"], 40), *map(str, counts), _percent(row["error"]))
    return table


def _worst_classes(result: Evaluation) -> Table:
    """Return the classes with the largest errors as a table."""
    title = f"the {_MAX_CLASSES} classes with the largest error, of {len(result['classes'])}"
    table = _table(["class", "images", "error"], title)
    tested = [(row["error"], row) for row in result["classes"] if row["error"] is not None]
    for error, row in sorted(tested, key=lambda pair: -pair[0])[:_MAX_CLASSES]:
        table.add_row(printable(row["name"], 40), str(row["images"]), _percent(error))
    return table


def _confused_pairs(result: Evaluation) -> str:
    """Return the pairs of classes that are confused most often as a sentence."""
    names = [row["name"] for row in result["classes"]]
    pairs = [
        (count, f"{names[true]} as {names[predicted]} ({count})")
        for true, row in enumerate(result["confusion"])
        for predicted, count in enumerate(row)
        if count and predicted != true
    ]
    most = [pair for _, pair in sorted(pairs, key=lambda pair: -pair[0])[:_MAX_PAIRS]]
    return f"most frequent confusions: {', '.join(most)}" if most else "no image is misclassified"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"
