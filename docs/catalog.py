"""Write docs/mechanisms.md, the catalog of mechanisms, from their specs.

python docs/catalog.py
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import saccade as sc
from saccade.layers.describe import draw, inputs, options
from saccade.layers.spec import Domain

PAGE = Path(__file__).parent / "mechanisms.md"

HEAD = """# Mechanisms

<!-- written by docs/catalog.py from the specs -->

Every mechanism is built by `sc.create(name, channels, **options)`. *Weights* are soft, which is to say
differentiable numbers, or a hard, sampled choice; a mechanism chooses *by* item of a sequence, or by location
in one map. A *drop-in* takes a map (B, C, H, W) and returns one of the same shape, so that `saccade compare`
and any slot of a network take it by name. `saccade show NAME` adds the equation, the deviations from the
paper, and the cost.
"""


def page() -> str:
    """Return the page, with the mechanisms that come with the package, domain by domain."""
    specs = [sc.spec(name) for domain in get_args(Domain) for name in sc.mechanisms(domain=domain)]
    return "\n".join([HEAD, *table(specs), *(line for spec in specs for line in section(spec))])


def table(specs: list[sc.Spec]) -> list[str]:
    rows = (
        (
            f"[`{its.name}`](#{its.name})",
            its.domain,
            its.selection,
            its.unit,
            "yes" if its.drop_in else "",
            str(its.paper.year),
            its.summary,
        )
        for its in specs
    )
    return [
        "| mechanism | domain | weights | by | drop-in | year | what it does |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def section(spec: sc.Spec) -> list[str]:
    paper = spec.paper
    lines = [f"## {spec.name}", "", f"{spec.summary[0].upper()}{spec.summary[1:]}.", ""]
    lines += [f"{paper.authors}: [{paper.title}]({paper.url}), {paper.year}.", ""]
    if spec.flow:
        lines += ["```", draw(spec.flow), "```", ""]
    lines += ["Inputs:", "", *(f"- `{line}`" for line in inputs(spec)), ""]
    if spec.options:
        chosen = (
            f"- `{option}`" + (f", one of `{among}`" if among else "") for option, among in options(spec)
        )
        lines += ["Options:", "", *chosen, ""]
    return lines


if __name__ == "__main__":
    PAGE.write_text(page())
