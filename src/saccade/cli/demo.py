"""`saccade demo`: the first experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from saccade.cli.options import folder_option


def demo(
    context: typer.Context,
    out: Annotated[Path, folder_option(help="Folder of the comparison.")] = Path("demo"),
) -> None:
    """Train a small CNN with and without attention, and write a report: `saccade compare white-patch`.

    It takes a few minutes on two cores, and needs no data. Run it again to continue after an interruption.
    """
    group: Any = cast("typer.Context", context.parent).command
    group.commands["compare"].main(["white-patch", "--out", str(out)], standalone_mode=False)
