"""Slots for attention in a small network: one after each stage, and one in place of its last mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.grammar import parse
from saccade.layers.registry import create, spec

#: A mechanism: its text, its name and options, or a function from the number of channels to a module.
Choice = str | tuple[str, Mapping[str, Any]] | Callable[[int], nn.Module]


def slots(
    network: str, widths: Sequence[int], attention: Mapping[Any, Choice], *, dims: int, pool: str, pooled: str
) -> nn.ModuleDict:
    """Build what stands in each slot of a network, by the slot's name.

    widths     the channels of each stage; after stage 1, 2 ... stands what takes and returns one map of so
               many axes, `dims`
    pool       the slot of what pools the last features, of the shape `pooled`, into (B, C)

    Raises `BadOption` for a slot that does not exist or a mechanism that does not fit into it.
    """
    built = nn.ModuleDict()
    for slot, choice in sorted(attention.items(), key=lambda item: str(item[0])):
        if slot != pool and not (isinstance(slot, int) and 1 <= slot <= len(widths)):
            raise BadOption(f"{network} has stages 1 to {len(widths)} and {pool!r}, not {slot!r}")
        if not callable(choice):
            name, options = parse(choice) if isinstance(choice, str) else choice
            if slot == pool and not pools(name, pooled):
                wanted = f"({', '.join(pooled.split())}) -> (B, C)"
                raise BadOption(f"{name} does not pool {wanted}, as the slot {pool!r} of {network} needs")
            if slot != pool and dims not in spec(name).dims:
                raise BadOption(
                    f"{name} does not take and return one map of {dims} axes, as a stage of {network} needs"
                )
        channels = widths[-1] if slot == pool else widths[slot - 1]
        built[str(slot)] = choice(channels) if callable(choice) else create(name, channels, **options)
    return built


def pools(name: str, shape: str) -> bool:
    """Whether a mechanism pools what has this shape: whether its result, or the first part of it, is (B, C).

    >>> pools("hard_item", "B C H W"), pools("temporal_pool", "B C H W"), pools("temporal_pool", "B L C")
    (True, False, True)
    """
    return any(e.shapes == shape and (e.output or "").split(",")[0] == "B C" for e in spec(name).examples)


def pooled_by(pool: nn.Module, x: Tensor) -> Tensor:
    """Return what a mechanism pools, (B, C), without what it tells besides."""
    result: Any = pool(x)
    pooled: Tensor = result[0] if isinstance(result, tuple) else result
    return pooled
