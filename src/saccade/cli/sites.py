"""`saccade sites`: list the places of a model for attention, and the cost of a mechanism."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from saccade.cli.options import Json
from saccade.cli.terminal import announce, console


def sites(
    model: Annotated[str, typer.Argument(help="A model of torchvision or timm, for example timm:resnet50.")],
    attention: Annotated[
        str | None, typer.Option("-a", "--attention", help="A mechanism, NAME[:option=value,...].")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    where: Annotated[
        str | None, typer.Option(help="List one kind of place: input, stem, residual, stage or head.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the places of a model that can take attention and, for a mechanism, its cost there."""
    announce()
    import torch
    from rich.table import Table
    from rich.text import Text

    from saccade.attachment import KINDS, Sites
    from saccade.attachment import sites as find_sites
    from saccade.errors import check_choice, check_positive
    from saccade.models import load_backbone

    check_positive("sites", image_size=image_size)
    if where is not None:
        check_choice("sites", "where", where, KINDS)
    with torch.device("meta"):  # shapes and costs need no weights
        network = load_backbone(model)
        example_inputs = torch.zeros(1, 3, image_size, image_size)
    all_sites = find_sites(network, example_inputs, attention)
    shown = Sites(site for site in all_sites if where in (None, site.kind))

    size = sum(p.numel() for p in network.parameters())
    if as_json:
        typer.echo(json.dumps([vars(site) for site in shown], indent=1))
        return
    title = f"{model}, {size:,} parameters" + (f", with {attention}" if attention else "")
    table = Table(box=None, pad_edge=False)
    columns = [column for column in shown.columns if column != "refused"]
    for column in columns:
        is_number = column in ("parameters", "flops", "share")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != "path")
    for row in shown.rows:
        table.add_row(*map(Text, row[: len(columns)]))
    terminal = console()
    terminal.print(f"{title}\n")
    terminal.print(table)
    for refused in dict.fromkeys(site.refused for site in shown if site.refused):
        paths = ", ".join(dict.fromkeys(site.path for site in shown if site.refused == refused))
        terminal.print(Text(f"\nnot at {paths}: {refused}"))
    terminal.print()
    for kind in KINDS if attention else ():
        fitting = [site for site in shown.of(kind) if site.refused is None]
        parameters = sum(site.parameters or 0 for site in fitting)
        share = sum(site.share or 0.0 for site in fitting)
        if fitting:
            terminal.print(
                f"{kind:<9}{len(fitting):>3} x {attention}: {parameters:,} parameters "
                f"(+{parameters / size:.1%}), FLOPs +{share:.1%}"
            )
