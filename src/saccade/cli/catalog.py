"""`saccade list` and `saccade show`: the catalog of mechanisms."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli.completion import complete_mechanism
from saccade.cli.options import Json
from saccade.cli.terminal import console, echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saccade.layers.facts import Facts
    from saccade.layers.spec import Spec


def list_mechanisms(
    contains: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Select entries whose name, summary or paper contains TEXT; case is ignored.",
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(help="Select mechanisms of one domain, for example channel, spatial or pairwise."),
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the built-in recipes instead.")] = False,
    as_json: Json = False,
) -> None:
    """List the mechanisms: domain, kind of weights, unit of selection, and year of publication."""
    from saccade.errors import BadOption, UnknownName

    def matches(*texts: str) -> bool:
        return contains is None or any(contains.lower() in text.lower() for text in texts)

    if recipes:
        from saccade.config import builtin_recipes

        found = [one for one in builtin_recipes().values() if matches(one.name, one.summary)]
        if as_json:
            rows = [{"name": one.name, "command": one.command, "summary": one.summary} for one in found]
            typer.echo(json.dumps(rows, indent=1))
            return
        for recipe in found:
            echo(f"saccade {recipe.command} --recipe {recipe.name}\n  {recipe.summary}")
        return
    from typing import get_args

    from rich.padding import Padding
    from rich.text import Text

    from saccade.layers.aliases import aliases_of
    from saccade.layers.facts import Domain

    if domain is not None and domain not in get_args(Domain):
        raise UnknownName("domain", domain, get_args(Domain))
    specs = [
        entry
        for entry in _entries()
        if domain in (None, entry.domain)
        and matches(
            entry.name, *aliases_of(entry.name), entry.summary, entry.paper.title, entry.paper.authors
        )
    ]
    if not specs:
        selected = "mechanism" if domain is None else f"mechanism of domain {domain!r}"
        problem = f"no {selected} contains {contains!r}; `saccade list` shows all"
        raise BadOption.of("list", problem, contains=contains)
    if as_json:
        from saccade.layers.registry import spec

        typer.echo(json.dumps([_facts(spec(entry.name)) for entry in specs], indent=1))
        return
    width = max(21, *(len(entry.name) + 2 for entry in specs))
    row = f"{{:<{width}}}{{:<10}}{{:<9}}{{:<12}}{{}}"
    terminal = console()
    terminal.print(Text(row.format("mechanism", "domain", "weights", "unit", "year"), "dim"))
    for entry in specs:
        facts = row.format(entry.name, entry.domain, entry.selection, entry.unit, entry.paper.year)
        lines = [entry.summary, *(f"alias {alias}" for alias in aliases_of(entry.name))]
        summary = Padding(Text("\n".join(lines)), (0, 0, 0, 2), expand=False)
        terminal.print(Text(facts, "bold"), summary, sep="\n")


def show(
    name: Annotated[
        str,
        typer.Argument(help="Name of a mechanism, see `saccade list`.", autocompletion=complete_mechanism),
    ],
    channels: Annotated[int, typer.Option(help="Channels of the input whose cost is shown.")] = 64,
    size: Annotated[int, typer.Option(help="Height and width of this input.")] = 28,
    as_json: Json = False,
) -> None:
    """Show one mechanism: diagram, equation, paper, inputs, options and cost."""
    import inspect

    from rich.text import Text

    from saccade.layers.describe import draw, inputs, options, wrapped
    from saccade.layers.registry import spec
    from saccade.profiling import mechanism_cost

    entry = spec(name)
    measured = mechanism_cost(entry, channels, size)
    function = f"{entry.function.__module__}.{entry.function.__name__}"
    if as_json:
        shown = _facts(entry) | {
            "function": function,
            "inputs": inputs(entry),
            "options": [
                {"name": option.name, "default": option.default, "choices": list(option.choices)}
                for option in entry.options
            ],
            "maps": [kind.__name__ for kind in entry.maps],
            "flow": entry.flow,
            "cost": vars(measured),
            "documentation": inspect.getdoc(entry.module),
        }
        typer.echo(json.dumps(shown, indent=1, default=repr))  # a default of a plugin may be any object
        return
    usage = "a drop-in for any slot of a model" if entry.drop_in else "not a drop-in"
    listed = [f"  {option}{choices and '  one of ' + choices}" for option, choices in options(entry)]
    paper = entry.paper

    terminal = console()
    terminal.print(Text.assemble((entry.name, "bold"), f"  {entry.summary}"))
    terminal.print(f"{entry.domain}, {entry.selection}, {entry.unit}-wise; {usage}")
    terminal.print(f"{paper.authors}: {paper.title}, {paper.year}.")
    terminal.print(paper.url, soft_wrap=True, end="\n\n")  # an address can be copied from one line alone
    if entry.flow:
        terminal.print(draw(entry.flow), soft_wrap=True, end="\n\n")
    terminal.print(wrapped(inspect.getdoc(entry.module) or "", terminal.width), soft_wrap=True)
    terminal.print(f"\nfunction: {function}")
    sections = {"inputs": [f"  {line}" for line in inputs(entry)], "options": listed or ["  none"]}
    for title, lines in sections.items():
        terminal.print(Text(f"\n{title}", "bold"), *lines, sep="\n")
    terminal.print(
        Text.assemble(
            ("\ncost", "bold"),
            f" for {measured.inputs}: {measured.parameters:,} parameters, {measured.flops:,} FLOPs",
        )
    )


def _entries() -> Sequence[Facts | Spec]:
    """Return the mechanisms.

    Without plugins and registered mechanisms, neither they nor torch are imported, which takes seconds.
    """
    from saccade import plugins
    from saccade.layers.built_in import built_in_mechanisms

    is_imported = "saccade.layers.registry" in sys.modules  # to register one imports it
    if is_imported or plugins.names("saccade.mechanisms", built_in_mechanisms()):
        from saccade.layers.registry import specs

        return specs()
    from saccade.layers.facts import built_in_facts

    return built_in_facts()


def _facts(entry: Spec) -> dict[str, Any]:
    """Return what the list shows of a mechanism, for `--json`."""
    from saccade.layers.aliases import aliases_of

    return {
        "name": entry.name,
        "domain": entry.domain,
        "weights": entry.selection,
        "unit": entry.unit,
        "drop_in": entry.drop_in,
        "summary": entry.summary,
        "aliases": aliases_of(entry.name),
        "paper": vars(entry.paper),
    }
