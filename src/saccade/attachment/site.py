"""The record of a place for attention, and the list of them that prints as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["input", "stem", "residual", "stage", "head"]
Start = Literal["zero gate", "identity", "near identity", "paper"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Site:
    """A place where attention can be put into a network.

    path          of the module whose output is attended to, or, for "input", whose input is
    kind          "input": the image; "stem": what enters the first block; "residual": the end of a block's
                  branch, before the addition; "stage": the last map of a resolution; "head": the last map
                  before pooling. None for a module that was asked for by its path
    shape         of the features without the batch, channels first whatever their layout: (C, S...)
    channels_last whether they are (B, S..., C), as in Swin, or, with one axis, tokens (B, N, C)

    With a mechanism, what it costs there:

    parameters    numbers to train
    flops         of one image, see `saccade.profiling.flops`
    share         flops as a fraction of the network's; None from `attach`
    start         from `attach`, the first output: "zero gate": x + s (A(x) - x) with s = 0; "identity":
                  A(x), which is x; "near identity": A(x), which is x but for
                  rounding; "paper": A(x), as it comes
    refused       why the mechanism does not fit there, else None

    >>> Site("layer1.0.bn2", "residual", (64, 56, 56)).channels
    64
    """

    path: str
    kind: Kind | None
    shape: tuple[int, ...]
    channels_last: bool = False
    parameters: int | None = None
    flops: int | None = None
    share: float | None = None
    start: Start | None = None
    refused: str | None = None

    @property
    def channels(self) -> int:
        return self.shape[0]


class Sites(tuple[Site, ...]):
    """Places for attention, in the order in which the features pass them. `str` is a table.

    >>> print(Sites([Site("layer1.0.bn2", "residual", (64, 56, 56))]))
    path          kind      features
    layer1.0.bn2  residual  64 x 56 x 56
    """

    __slots__ = ()

    def of(self, kind: Kind) -> Sites:
        """Return those of one kind."""
        return Sites(site for site in self if site.kind == kind)

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings of `rows`: of what is known for any of the sites."""
        names = ("parameters", "flops", "share", "start", "refused")
        known = [name for name in names if any(getattr(site, name) is not None for site in self)]
        return ("path", "kind", "features", *known)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells."""
        cells = [
            {
                "path": site.path,
                "kind": site.kind or "",
                "features": " x ".join(map(str, site.shape)),
                "parameters": _number(site.parameters),
                "flops": _number(site.flops),
                "share": "" if site.share is None else f"{site.share:.2%}",
                "start": site.start or "",
                "refused": site.refused or "",
            }
            for site in self
        ]
        return [tuple(row[column] for column in self.columns) for row in cells]

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
