"""The small network for clips: each frame by itself, with a slot for attention in space-time or over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from saccade.errors import check_shape
from saccade.models.slots import Choice, pooled_by, slots
from saccade.models.small_cnn import stage


class ClipCNN(nn.Module):
    """`SmallCNN` on each frame, attention between the frames, a mean over positions and one over time.

        stage s:  x_t <- ReLU(BN(conv3x3, stride 2 (x_t)))        x <- attention_s(x)
        y = W pool_t(mean_p x_tp) + b                             pool_t: a mean, or the attention over time

    clips (B, in_channels, T, H, W) -> logits (B, classes). Any T, H and W from 1 up.

    The frames do not know of one another but through the attention, and none of it knows their order unless
    the mechanism tells it. A mean over time, and one under weights that each frame has from itself alone,
    leave a sum of scores of frames; what compares frames has to stand in a stage.

    attention     for a stage, 1 to 3, a mechanism that takes and returns (B, C, T, H, W), or for "time" one
                  that pools a sequence, (B, T, C) -> (B, C): "NAME[:option=value,...]", or a function from
                  the number of channels to a module. Maps are recorded as "attention.STAGE", "attention.time"

    Raises `BadOption` for a slot that does not exist or a mechanism that does not fit into it.

    >>> import torch
    >>> model = ClipCNN(10, attention={2: "non_local:dims=3", "time": "temporal_pool"})
    >>> model(torch.randn(4, 3, 8, 32, 32)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        attention: Mapping[int | Literal["time"], Choice] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        before = (in_channels, *widths)
        self.stages = nn.ModuleList(stage(before[i], width) for i, width in enumerate(widths))
        self.attention = slots("ClipCNN", widths, attention or {}, dims=3, pool="time", pooled="B L C")
        self.head = nn.Linear(widths[-1], classes)

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
        pooled = pooled_by(self.attention["time"], frames) if "time" in self.attention else frames.mean(1)
        logits: Tensor = self.head(pooled)
        return logits
