"""saccade score: do the maps of trained networks show what the networks use, and what they have learned?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.train import Json


def score(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or of a comparison.")],
    images: Annotated[int, typer.Option(help="Test images to score the maps on.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps of the deletion and insertion curves.")] = 20,
    as_json: Json = False,
) -> None:
    """Judge the maps of a run, or of every run of a comparison: faithfulness and the sanity check.

    The scores go into the run's result.json and into the comparison's table and page. Repeated, the command
    replaces them; killed, it leaves what was there.
    """
    from saccade.cli.display import RunDisplay, scores_table
    from saccade.experiments import leaderboard
    from saccade.experiments import score as run
    from saccade.viz.report import write

    with RunDisplay(to_stderr=as_json) as display:
        result = run(folder, images=images, steps=steps, report=display.told)
    is_comparison = "leaderboard" in result
    page = write(folder) if is_comparison else None
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    display.console.print(scores_table(result["leaderboard"] if is_comparison else leaderboard([result])))
    if page:
        typer.echo(f"report: {page}    table: {folder / 'leaderboard.csv'}")
    else:
        typer.echo(f"the scores are in {folder / 'result.json'}")
