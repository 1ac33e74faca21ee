"""The small network of the first experiment, with a slot for attention after each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.models.slots import Choice, pooled_by, slots


class SmallCNN(nn.Module):
    """Three strided convolutions, an optional mechanism after each, a mean over positions, a linear head.

        stage s:  x <- attention_s(ReLU(BN(conv3x3, stride 2 (x))))        y = W pool_p x_p + b
        pool_p:   a mean over positions, or the attention that pools them

    images (B, in_channels, H, W) -> logits (B, classes). Any H and W from 1 up.

    attention     for a stage, 1 to 3, a mechanism that takes and returns (B, C, H, W), or for "places" one
                  that pools them, (B, C, H, W) -> (B, C): "NAME[:option=value,...]", or a function from the
                  number of channels to a module. Maps are recorded as "attention.STAGE", "attention.places".

    Raises `BadOption` for a slot that does not exist or a mechanism that does not fit into it.

    >>> import torch
    >>> model = SmallCNN(2, attention={2: "cbam"})
    >>> model(torch.randn(4, 3, 96, 96)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        attention: Mapping[int, Choice] | Mapping[int | Literal["places"], Choice] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        before = (in_channels, *widths)
        self.stages = nn.ModuleList(stage(before[i], width) for i, width in enumerate(widths))
        self.attention = slots("SmallCNN", widths, attention or {}, dims=2, pool="places", pooled="B C H W")
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        check_shape("SmallCNN", images, "B C H W", C=self.in_channels)
        x = images
        for number, convolution in enumerate(self.stages, start=1):
            x = convolution(x)
            if str(number) in self.attention:
                x = self.attention[str(number)](x)
        pooled = pooled_by(self.attention["places"], x) if "places" in self.attention else x.mean((2, 3))
        logits: Tensor = self.head(pooled)
        return logits


def stage(channels: int, width: int) -> nn.Sequential:
    """Return a convolution that halves height and width, with its norm and nonlinearity."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
