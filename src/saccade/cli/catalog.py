"""saccade list, saccade show: the catalog."""

from __future__ import annotations

from typing import Annotated

import typer

ROW = "{:<21}{:<10}{:<9}{:<12}{}"


def list_mechanisms(
    domain: Annotated[str | None, typer.Option(help="Only mechanisms of this domain.")] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="The recipes that are shipped.")] = False,
) -> None:
    """List the mechanisms: what they act on, how they choose, where they were published."""
    if recipes:
        from saccade.config import builtin_recipes

        for recipe in builtin_recipes().values():
            typer.echo(f"saccade {recipe.command} --recipe {recipe.name}\n  {recipe.summary}")
        return
    from typing import get_args

    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from saccade import mechanisms, spec
    from saccade.errors import UnknownName
    from saccade.layers.spec import Domain

    if domain is not None and domain not in get_args(Domain):
        raise UnknownName("domain", domain, get_args(Domain))
    console = Console(highlight=False)
    console.print(Text(ROW.format("mechanism", "domain", "weights", "chooses by", "year"), "dim"))
    for name in mechanisms():
        its = spec(name)
        if domain in (None, its.domain):
            facts = ROW.format(name, its.domain, its.selection, its.unit, its.paper.year)
            console.print(
                Text(facts, "bold"), Padding(Text(its.summary), (0, 0, 0, 2), expand=False), sep="\n"
            )


def show(
    name: Annotated[str, typer.Argument(help="A mechanism, see saccade list.")],
    channels: Annotated[int, typer.Option(help="Channels of the map whose cost is shown.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of that map.")] = 28,
) -> None:
    """Show one mechanism: how data pass it, its equation, paper, inputs and options, and what it costs."""
    import inspect

    from rich.console import Console

    from saccade import spec
    from saccade.layers.describe import draw, inputs, options, wrapped
    from saccade.profiling import flops

    its = spec(name)
    module = its.module(channels, **its.examples[0].options)
    example = its.examples[0].inputs(B=1, C=channels, H=size, W=size)
    shapes = ", ".join(str(tuple(x.shape)) for x in example)
    parameters, operations = sum(p.numel() for p in module.parameters()), flops(module, *example)
    fits = "a drop-in for any slot of a network" if its.drop_in else "not a drop-in"

    console = Console(highlight=False)
    console.print(
        f"[bold]{its.name}[/]  {its.summary}\n{its.domain}, {its.selection}, {its.unit}-wise; {fits}"
    )
    console.print(f"{its.paper.authors}: {its.paper.title}, {its.paper.year}.\n{its.paper.url}\n")
    if its.flow:
        console.print(draw(its.flow), markup=False, soft_wrap=True, end="\n\n")
    console.print(wrapped(inspect.getdoc(its.module) or "", console.width), markup=False, soft_wrap=True)
    console.print(f"\nfunction: {its.function.__module__}.{its.function.__name__}", markup=False)
    console.print("\n[bold]inputs[/]")
    for line in inputs(its):
        console.print(f"  {line}", markup=False)
    console.print("\n[bold]options[/]" if its.options else "\n[bold]options[/] none")
    for option, choices in options(its):
        console.print(f"  {option}{choices and '  one of ' + choices}", markup=False)
    console.print(f"\n[bold]cost[/] of {shapes}: {parameters:,} parameters, {operations:,} FLOPs")
