"""The Residual Attention Network, Wang et al. 2017."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_choice, check_positive, check_shape
from saccade.layers.mixed.residual_mask import Activation, ResidualMask, ResidualUnit

#: Number of attention modules of the three stages, by the depth of the trunk.
MODULES: Mapping[int, tuple[int, int, int]] = {56: (1, 1, 1), 92: (1, 2, 3)}
#: Number of times the masks of the three stages are halved: from sides of 56, 28 and 14 to 7.
HALVINGS: Sequence[Literal[1, 2, 3]] = (3, 2, 1)


class ResidualAttentionNetwork(nn.Module):
    """Alternating residual units and attention modules, a mean over positions and a linear head.

        stage s:  x <- module^n_s(unit_s(x)), s = 1 to 3        y = W mean_p ReLU(BN(unit^3(x)))_p + b

    unit_s is a `ResidualUnit` to 256, 512, 1024 and 2048 channels, with stride 2 from the second on; the n_s
    modules of a stage are `ResidualMask`, whose masks are halved 3, 2 and 1 times; p is a position and y the
    logits. Maps are recorded as "stages.STAGE.NUMBER", with STAGE from 0 to 2 and NUMBER from 1 on.

    References:
        Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang: Residual Attention Network for Image Classification,
        CVPR 2017 (table 2 and section 4).

    Args:
        classes: Number of classes.
        depth: Number of layers on the longest path outside the masks: 56 has one module per stage; 92 has 1,
            2 and 3.
        stem: "imagenet": a 7 x 7 convolution to 64 channels with stride 2, BN, ReLU and a 3 x 3 max-pooling
            with stride 2. "cifar": a 3 x 3 convolution to 64 channels with stride 1.
        in_channels: Number of input channels.
        widths: Number of channels of the three stages and of the last units, at least 4 each; the stem has a
            quarter of the first.
        activation: Activation of the masks, see `ResidualMask`.

    Shape:
        - Input: (B, in_channels, H, W), any H and W.
        - Output: (B, classes).

    Raises:
        BadOption: If the depth or the stem is unknown, or there are not four widths of at least 4.
        BadShape: For any other input shape; in training also as `ResidualMask` does.

    Note:
        The paper reports 31.9 and 51.3 million parameters for 1000 classes. The layers of its table, which
        are those of the released networks, have 31.8 and 52.5 million, as has this model. The stem and widths
        for CIFAR were not released; in the paper, all stages have the same number of modules for CIFAR.

    Example:
        >>> import torch
        >>> model = ResidualAttentionNetwork(10, stem="cifar", widths=(16, 32, 64, 128))
        >>> model(torch.randn(2, 3, 33, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        depth: Literal[56, 92] = 56,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        in_channels: int = 3,
        widths: Sequence[int] = (256, 512, 1024, 2048),
        activation: Activation = "mixed",
    ) -> None:
        super().__init__()
        check_choice("ResidualAttentionNetwork", "depth", depth, list(MODULES))
        check_choice("ResidualAttentionNetwork", "stem", stem, ("imagenet", "cifar"))
        check_positive("ResidualAttentionNetwork", classes=classes, in_channels=in_channels)
        if len(widths) != 4 or min(widths) < 4:
            raise bad_option("ResidualAttentionNetwork", "must be four numbers of at least 4", widths=widths)
        self.in_channels = in_channels
        before = (widths[0] // 4, *widths)
        self.stem = _stem(stem, in_channels, before[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualUnit(before[i], widths[i], stride=1 if i == 0 else 2),
                *(ResidualMask(widths[i], halvings, activation) for _ in range(MODULES[depth][i])),
            )
            for i, halvings in enumerate(HALVINGS)
        )
        self.last = nn.Sequential(
            ResidualUnit(widths[2], widths[3], stride=2),
            ResidualUnit(widths[3], widths[3]),
            ResidualUnit(widths[3], widths[3]),
        )
        self.norm = nn.BatchNorm2d(widths[3])
        self.head = nn.Linear(widths[3], classes)

    def forward(self, images: Tensor) -> Tensor:
        check_shape("ResidualAttentionNetwork", images, "B C H W", C=self.in_channels)
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = F.relu(self.norm(self.last(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _stem(stem: str, in_channels: int, channels: int) -> nn.Module:
    if stem == "cifar":
        return nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
