"""The small network of the first experiment, with a slot for attention after each stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from saccade.errors import BadOption, check_shape
from saccade.registry import create, parse, spec


class SmallCNN(nn.Module):
    """Three strided convolutions, an optional mechanism after each, a mean over positions, a linear head.

        stage s:  x <- attention_s(ReLU(BN(conv3x3, stride 2 (x))))        y = W mean_p x_p + b

    images (B, in_channels, H, W) -> logits (B, classes). Any H and W from 1 up.

    attention     for a stage, 1 to 3: "NAME[:option=value,...]", or a function from the number of
                  channels to a module. Maps are recorded as "attention.STAGE".

    Raises `BadOption` for a stage that does not exist or a mechanism that does not fit into a slot.

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
        attention: Mapping[int, str | Callable[[int], nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        before = (in_channels, *widths)
        self.stages = nn.ModuleList(stage(before[i], width) for i, width in enumerate(widths))
        self.attention = nn.ModuleDict()
        for number, choice in sorted((attention or {}).items()):
            if not 1 <= number <= len(widths):
                raise BadOption(f"SmallCNN has stages 1 to {len(widths)}, not {number}")
            self.attention[str(number)] = _mechanism(choice, widths[number - 1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        check_shape("SmallCNN", images, "B C H W", C=self.in_channels)
        x = images
        for number, convolution in enumerate(self.stages, start=1):
            x = convolution(x)
            if str(number) in self.attention:
                x = self.attention[str(number)](x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def stage(channels: int, width: int) -> nn.Sequential:
    """Return a convolution that halves height and width, with its norm and nonlinearity."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def _mechanism(choice: str | Callable[[int], nn.Module], channels: int) -> nn.Module:
    if callable(choice):
        return choice(channels)
    name, options = parse(choice)
    if not spec(name).drop_in:
        raise BadOption(f"{name} does not take and return one image map, so no slot of SmallCNN can hold it")
    return create(name, channels, **options)
