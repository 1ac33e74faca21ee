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


class SlottedCNN(nn.Module):
    """Stages of strided convolutions with slots for attention, and a linear head; see its subclasses.

    Attributes:
        dims: Number of spatial axes of the maps that mechanisms of stages take and return.
        pool: Name of the slot that pools the last features into (B, C).
        pooled: Shape of the last features, for example "B C H W".
    """

    dims: int
    pool: str
    pooled: str

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        attention: Mapping[Any, Choice] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = nn.ModuleList(map(_stage, (in_channels, *widths), widths))
        self.attention = nn.ModuleDict()
        for slot, choice in sorted((attention or {}).items(), key=lambda item: str(item[0])):
            self.attention[str(slot)] = self._fill(slot, choice, widths)
        self.head = nn.Linear(widths[-1], classes)

    def _fill(self, slot: object, choice: Choice, widths: Sequence[int]) -> nn.Module:
        """Build the mechanism of a slot."""
        network = type(self).__name__
        if slot not in (self.pool, *range(1, len(widths) + 1)):
            problem = f"the slots are stages 1 to {len(widths)} and {self.pool!r}, not {slot!r}"
            raise BadOption.of(network, problem, attention=slot)
        channels = widths[slot - 1] if isinstance(slot, int) else widths[-1]
        if callable(choice):
            return choice(channels)
        name, options = parse(choice) if isinstance(choice, str) else choice
        if slot == self.pool:
            fits, needed = pools(name, self.pooled), f"pool ({', '.join(self.pooled.split())}) -> (B, C)"
        else:
            fits, needed = self.dims in spec(name).dims, f"take and return one map of {self.dims} axes"
        if not fits:
            message = f"{name} does not {needed}, as the slot {slot!r} of {network} requires"
            raise BadOption(message, owner=network, option="attention", value=choice)
        return create(name, channels, **options)

    def _classify(self, features: Tensor, mean: tuple[int, ...]) -> Tensor:
        """Return the logits of features, pooled by the attention in slot `pool` or by a mean over axes."""
        pooled = self.attention[self.pool](features) if self.pool in self.attention else features.mean(mean)
        logits: Tensor = self.head(pooled[0] if isinstance(pooled, tuple) else pooled)
        return logits


def _stage(channels: int, width: int) -> nn.Sequential:
    """Return a 3 x 3 convolution that halves height and width, with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def pools(name: str, shape: str) -> bool:
    """Return whether a mechanism pools features of this shape: whether its (first) output is (B, C).

    Example:
        >>> pools("hard_item", "B C H W"), pools("temporal_pool", "B C H W"), pools("temporal_pool", "B L C")
        (True, False, True)
    """
    return any(e.shapes == shape and (e.output or "").split(",")[0] == "B C" for e in spec(name).examples)
