"""saccade list, saccade show: the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer


def list_mechanisms(
    domain: Annotated[str | None, typer.Option(help="Only mechanisms of this domain.")] = None,
) -> None:
    """List the mechanisms: what they act on, how they choose, where they were published."""
    from typing import get_args

    from rich.console import Console
    from rich.table import Table

    from saccade import mechanisms, spec
    from saccade.errors import UnknownName
    from saccade.spec import Domain

    if domain is not None and domain not in get_args(Domain):
        raise UnknownName("domain", domain, get_args(Domain))
    table = Table(
        "mechanism", "domain", "weights", "by", "year", "what it does", box=None, header_style="bold"
    )
    for name in mechanisms():
        its = spec(name)
        if domain in (None, its.domain):
            table.add_row(name, its.domain, its.selection, its.unit, str(its.paper.year), its.summary)
    Console().print(table)


def show(
    name: Annotated[str, typer.Argument(help="A mechanism, see saccade list.")],
    channels: Annotated[int, typer.Option(help="Channels of the map whose cost is shown.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of that map.")] = 28,
) -> None:
    """Show one mechanism: its equation, paper, options with defaults, and what it costs."""
    import inspect

    from rich.console import Console

    from saccade import spec
    from saccade.bench import flops

    its = spec(name)
    module = its.module(channels, **its.examples[0].options)
    inputs = its.examples[0].inputs(B=1, C=channels, H=size, W=size)
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    parameters = sum(p.numel() for p in module.parameters())
    console = Console(highlight=False)
    console.print(f"[bold]{its.name}[/]  {its.summary}\n{its.domain}, {its.selection}, {its.unit}-wise")
    console.print(f"{its.paper.authors}: {its.paper.title}, {its.paper.year}. {its.paper.url}\n")
    console.print(inspect.cleandoc(inspect.getdoc(its.module) or ""), markup=False)
    console.print("\n[bold]options[/]")
    for option in its.options:
        choices = f"  one of {', '.join(map(repr, option.choices))}" if option.choices else ""
        console.print(f"  {option.name} = {option.default!r}{choices}", markup=False)
    console.print(f"\n[bold]cost[/] of {shapes}: {parameters:,} parameters, {flops(module, *inputs):,} FLOPs")
