"""Slots for attention in a small network: after each stage, and in place of the last mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.grammar import parse
from saccade.layers.registry import create, spec

#: A mechanism as text, as its name and options, or as a function from the number of channels to a module.
Choice = str | tuple[str, Mapping[str, Any]] | Callable[[int], nn.Module]


def slots(
    network: str, widths: Sequence[int], attention: Mapping[Any, Choice], *, dims: int, pool: str, pooled: str
) -> nn.ModuleDict:
    """Build the mechanism of each slot of a network.

    Args:
        network: Name of the network, for error messages.
        widths: Number of channels of each stage.
        attention: Mechanism of each slot: a stage, counted from 1, or `pool`.
        dims: Number of spatial axes of the maps that mechanisms of stages take and return.
        pool: Name of the slot that pools the last features into (B, C).
        pooled: Shape of the last features, for example "B C H W".

    Returns:
        Modules by the name of their slot.

    Raises:
        BadOption: If a slot does not exist, or a mechanism does not fit its slot.
    """
    built = nn.ModuleDict()
    for slot, choice in sorted(attention.items(), key=lambda item: str(item[0])):
        if slot != pool and not (isinstance(slot, int) and 1 <= slot <= len(widths)):
            message = f"{network} has stages 1 to {len(widths)} and {pool!r}, not {slot!r}"
            raise BadOption(message, owner=network, option="attention", value=slot)
        if not callable(choice):
            name, options = parse(choice) if isinstance(choice, str) else choice
            if not (pools(name, pooled) if slot == pool else dims in spec(name).dims):
                pooling = f"pool ({', '.join(pooled.split())}) -> (B, C), as the slot {slot!r}"
                needed = pooling if slot == pool else f"take and return one map of {dims} axes, as a stage"
                message = f"{name} does not {needed} of {network} requires"
                raise BadOption(message, owner=network, option="attention", value=choice)
        channels = widths[-1] if slot == pool else widths[slot - 1]
        built[str(slot)] = choice(channels) if callable(choice) else create(name, channels, **options)
    return built


def pools(name: str, shape: str) -> bool:
    """Return whether a mechanism pools features of this shape: whether its (first) output is (B, C).

    Example:
        >>> pools("hard_item", "B C H W"), pools("temporal_pool", "B C H W"), pools("temporal_pool", "B L C")
        (True, False, True)
    """
    return any(e.shapes == shape and (e.output or "").split(",")[0] == "B C" for e in spec(name).examples)


def pooled_by(pool: nn.Module, x: Tensor) -> Tensor:
    """Return the pooled features (B, C) of a mechanism, without its further outputs."""
    result: Any = pool(x)
    pooled: Tensor = result[0] if isinstance(result, tuple) else result
    return pooled
