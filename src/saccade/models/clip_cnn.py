"""A small CNN for video clips, with slots for attention in space-time or over time."""

from __future__ import annotations

from torch import Tensor

from saccade.errors import check_shape
from saccade.models.slots import SlottedCNN


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
        >>> model = ClipCNN(10, attention={2: "non_local:dims=3", "time": "temporal_pool"})
        >>> model(torch.randn(4, 3, 8, 32, 32)).shape
        torch.Size([4, 10])
    """

    dims, pool, pooled = 3, "time", "B L C"

    def forward(self, clips: Tensor) -> Tensor:
        check_shape("ClipCNN", clips, "B C T H W", C=self.in_channels)
        batch = len(clips)
        x = clips.transpose(1, 2).flatten(0, 1)  # frames, as images
        for number, convolution in enumerate(self.stages, start=1):
            x = convolution(x)
            if str(number) in self.attention:
                volume = x.unflatten(0, (batch, -1)).transpose(1, 2)
                x = self.attention[str(number)](volume).transpose(1, 2).flatten(0, 1)
        frames = x.mean((2, 3)).unflatten(0, (batch, -1))
        return self._classify(frames, mean=(1,))
