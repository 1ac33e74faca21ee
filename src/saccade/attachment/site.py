"""A place for attention, and a list of places that prints as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["input", "stem", "residual", "stage", "head"]
Start = Literal["zero gate", "identity", "near identity", "paper"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FORMATS = {"parameters": ",", "flops": ",", "share": ".2%"}  # of the columns of the table


@dataclass(frozen=True)
class Site:
    """A place of a model that can take attention.

    Attributes:
        path: Path of the module whose output is attended to; for kind "input", whose input is.
        kind: "input": the image. "stem": the input of the first block. "residual": the end of the branch of a
            block, before the addition. "stage": the last map of a resolution. "head": the last map before
            pooling. None: a module that was selected by its path.
        shape: Shape of the features without the batch, channels first: `(C, S...)`.
        channels_last: Whether the features are `(B, S..., C)`, as in Swin, or tokens `(B, N, C)`.
        grid: The grid in the image of the last tokens; the first ones (class token, registers) have no place
            in it. None if the features are no tokens or the grid is unknown.
        parameters: Number of trainable parameters of the mechanism there.
        flops: FLOPs of the mechanism for one image; see `saccade.profiling.flops`.
        share: `flops` as a fraction of the FLOPs of the model; None in the result of `attach`.
        start: Output at initialization, in the result of `attach`. "zero gate": x + s (A(x) - x) with s = 0.
            "identity": A(x), which equals x. "near identity": A(x), which equals x up to rounding. "paper":
            A(x) with the initialization of the paper.
        refused: Why the mechanism does not fit there; None if it does.

    Example:
        >>> Site("layer1.0.bn2", "residual", (64, 56, 56)).channels
        64
    """

    path: str
    kind: Kind | None
    shape: tuple[int, ...]
    channels_last: bool = False
    grid: tuple[int, ...] | None = None
    parameters: int | None = None
    flops: int | None = None
    share: float | None = None
    start: Start | None = None
    refused: str | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[0]


class Sites(tuple[Site, ...]):
    """Places for attention in the order of the forward pass. `str` formats them as a table.

    Example:
        >>> print(Sites([Site("layer1.0.bn2", "residual", (64, 56, 56))]))
        path          kind      features
        layer1.0.bn2  residual  64 x 56 x 56
    """

    __slots__ = ()

    def of(self, kind: Kind) -> Sites:
        """Return the places of one kind."""
        return Sites(site for site in self if site.kind == kind)

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`: the attributes that are known for any of the sites."""
        names = ("parameters", "flops", "share", "start", "refused")
        known = [name for name in names if any(getattr(site, name) is not None for site in self)]
        return ("path", "kind", "features", *known)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells of the table."""
        values = [{**vars(site), "features": " x ".join(map(str, site.shape))} for site in self]
        return [tuple(_cell(row[column], column) for column in self.columns) for row in values]

    def __str__(self) -> str:
        return format_table([self.columns, *self.rows])


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Align the cells of lines in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(value: object, column: str) -> str:
    return "" if value is None else format(value, _FORMATS.get(column, ""))
