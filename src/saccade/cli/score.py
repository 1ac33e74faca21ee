"""saccade score: faithfulness and sanity of the maps of trained models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.options import Json, Trust
from saccade.cli.terminal import announce, echo, path_argument


def score(
    folder: Annotated[Path, path_argument(help="Folder of a run or of a comparison.")],
    images: Annotated[int, typer.Option(help="Number of test images to score.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps of the deletion and insertion curves.")] = 20,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Score the maps of a run, or of every run of a comparison: faithfulness and sanity check.

    The scores are written to the result.json of each run, and to the leaderboard and report of a comparison.
    Running the command again replaces them. An interrupted command leaves the files intact.
    """
    announce()
    from saccade.cli.display import RunDisplay, scores_table
    from saccade.experiments import score as run
    from saccade.results import LEADERBOARD, RUN_RESULT, compute_leaderboard
    from saccade.viz import write_report

    with RunDisplay(to_stderr=as_json) as display:
        result = run(folder, images=images, steps=steps, report=display.show_stage, trust=trust)
    if "leaderboard" in result:
        rows = result["leaderboard"]
        written = f"report: {write_report(folder)}    table: {folder / LEADERBOARD}"
    else:
        rows, written = compute_leaderboard([result]), f"scores: {folder / RUN_RESULT}"
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        display.console.print(scores_table(rows))
        echo(written)
