"""Small CNNs for images and for clips, with slots for attention: after each stage, and in place of a mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.errors import BadOption, check_shape
from saccade.grammar import parse
from saccade.layers.dims import AXES
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
            needed: Mapping[str, object] | None = {} if pools(name, self.pooled) else None
            purpose = f"pool ({', '.join(self.pooled.split())}) -> (B, C)"
        else:
            needed = spec(name).options_for(AXES[self.dims])
            purpose = f"take and return one map of {self.dims} axes"
        if needed is None:
            message = f"{name} does not {purpose}, as the slot {slot!r} of {network} requires"
            raise BadOption(message, owner=network, option="attention", value=choice)
        return create(name, channels, **{**needed, **options})

    def _classify(self, features: Tensor, mean: tuple[int, ...]) -> Tensor:
        """Return the logits of features, pooled by the attention in slot `pool` or by a mean over axes."""
        pooled = self.attention[self.pool](features) if self.pool in self.attention else features.mean(mean)
        logits: Tensor = self.head(pooled[0] if isinstance(pooled, tuple) else pooled)
        return logits


class SmallCNN(SlottedCNN):
    """Three strided convolutions with optional attention after each, a mean over positions and a linear head.

        stage s:  x <- attention_s(ReLU(BN(conv3x3, stride 2 (x))))        y = W pool_p x_p + b
        pool_p:   a mean over positions, or the attention that pools them

    p is a position and y the logits.

    Args:
        classes: Number of classes.
        in_channels: Number of input channels.
        widths: Number of channels of each stage.
        attention: Mechanism of each slot. The slots of stages, 1 to 3, take a mechanism that maps (B, C, H,
            W) to the same shape; the slot "places" takes one that pools positions, (B, C, H, W) -> (B, C). A
            mechanism is `NAME[:option=value,...]` or a function from the number of channels to a module. Maps
            are recorded as "attention.STAGE" and "attention.places".

    Shape:
        - Input: (B, in_channels, H, W), any H and W.
        - Output: (B, classes).

    Raises:
        BadOption: If a slot does not exist, or a mechanism does not fit its slot.
        BadShape: For any other input shape.

    Example:
        >>> import torch
        >>> model = SmallCNN(2, attention={2: "cbam"})
        >>> model(torch.randn(4, 3, 96, 96)).shape
        torch.Size([4, 2])
    """

    dims, pool, pooled = 2, "places", "B C H W"

    def forward(self, images: Tensor) -> Tensor:
        check_shape("SmallCNN", images, "B C H W", C=self.in_channels)
        x = images
        for number, convolution in enumerate(self.stages, start=1):
            x = convolution(x)
            if str(number) in self.attention:
                x = self.attention[str(number)](x)
        return self._classify(x, mean=(2, 3))


class ClipCNN(SlottedCNN):
    """`SmallCNN` on each frame, with optional attention between frames, then means over positions and time.

        stage s:  x_t <- ReLU(BN(conv3x3, stride 2 (x_t)))        x <- attention_s(x)
        y = W pool_t(mean_p x_tp) + b                             pool_t: a mean, or the attention over time

    t is a frame, p a position and y the logits. Only attention connects frames, and none of the mechanisms
    uses their order unless it encodes it. A mean over time, or with weights that depend on each frame alone,
    yields a sum of scores of frames; a mechanism that compares frames belongs into a stage.

    Args:
        classes: Number of classes.
        in_channels: Number of input channels.
        widths: Number of channels of each stage.
        attention: Mechanism of each slot. The slots of stages, 1 to 3, take a mechanism that maps (B, C, T,
            H, W) to the same shape; the slot "time" takes one that pools a sequence, (B, T, C) -> (B, C). A
            mechanism is `NAME[:option=value,...]` or a function from the number of channels to a module. Maps
            are recorded as "attention.STAGE" and "attention.time".

    Shape:
        - Input: (B, in_channels, T, H, W), any T, H and W.
        - Output: (B, classes).

    Raises:
        BadOption: If a slot does not exist, or a mechanism does not fit its slot.
        BadShape: For any other input shape.

    Example:
        >>> import torch
        >>> model = ClipCNN(10, attention={2: "non_local", "time": "temporal_pool"})
        >>> model(torch.randn(4, 3, 8, 32, 32)).shape
        torch.Size([4, 10])
    """

    dims, pool, pooled = 3, "time", "B L C"

    def forward(self, clips: Tensor) -> Tensor:
        check_shape("ClipCNN", clips, "B C T H W", C=self.in_channels)
        batch = clips.shape[0]
        x = clips.transpose(1, 2).flatten(0, 1)  # frames, as images
        for number, convolution in enumerate(self.stages, start=1):
            x = convolution(x)
            if str(number) in self.attention:
                volume = x.unflatten(0, (batch, -1)).transpose(1, 2)
                x = self.attention[str(number)](volume).transpose(1, 2).flatten(0, 1)
        frames = x.mean((2, 3)).unflatten(0, (batch, -1))
        return self._classify(frames, mean=(1,))


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
