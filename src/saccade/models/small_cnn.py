"""A small CNN with a slot for attention after each stage."""

from __future__ import annotations

from torch import Tensor

from saccade.errors import check_shape
from saccade.models.slots import SlottedCNN


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
