"""The cost of a mechanism for its first example input."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.errors import check_positive
from saccade.layers.registry import create
from saccade.layers.spec import Spec
from saccade.profiling.costs import flops


@dataclass(frozen=True)
class MechanismCost:
    """The cost of a mechanism.

    Attributes:
        inputs: Shapes of the inputs, as text.
        parameters: Number of parameters.
        flops: Floating point operations of a forward pass, see `saccade.profiling.flops`.
    """

    inputs: str
    parameters: int
    flops: int


def mechanism_cost(spec: Spec, channels: int = 64, size: int = 28) -> MechanismCost:
    """Count parameters and FLOPs of a mechanism without computing values.

    Args:
        spec: The mechanism. Its first example determines the options and the inputs, of batch size 1.
        channels: Channels of the input.
        size: Height and width of the input.

    Raises:
        BadOption: `channels` or `size` is not positive, or does not fit the mechanism.

    Example:
        >>> from saccade import spec
        >>> mechanism_cost(spec("eca"))
        MechanismCost(inputs='(1, 64, 28, 28)', parameters=3, flops=100800)
    """
    check_positive("mechanism_cost", size=size)
    example = spec.examples[0]
    with torch.device("meta"):
        module = create(spec.name, channels, **example.options)
        tensors = example.inputs(B=1, C=channels, H=size, W=size)
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
    return MechanismCost(shapes, sum(p.numel() for p in module.parameters()), flops(module, *tensors))
