"""The U-Net of Ronneberger et al. 2015, with the attention gates of Oktay et al. 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_shape, check_positive, check_shape
from saccade.layers.registry import create


class UNet(nn.Module):
    """A U-Net: an encoder, a decoder, and skip connections between maps of the same size.

        x_0 = f_0(image)        x_l = f_l(maxpool(x_{l-1}))                         l = 1, ..., L
        z_L = x_L               z_l = h_l([gate_l(x_l, z_{l+1}), up(z_{l+1})])      l = L - 1, ..., 0
        y = W z_0 + b

    f_l and h_l are two 3 x 3 convolutions, each with batch norm and ReLU. Level l has `width * 2^l` channels.
    up is a transposed 2 x 2 convolution with stride 2, and [,] joins channels. gate_l is an attention gate,
    or passes x_l without one. The modules are numbered as they run: "decoder.0" and "gates.0" are those of
    level L - 1, the coarsest.

    References:
        Ronneberger, Fischer, Brox. U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI
        2015.
        Oktay et al. Attention U-Net: Learning Where to Look for the Pancreas. MIDL 2018.

    Args:
        classes: Number of classes.
        channels: Number of input channels.
        width: Number of channels of the first level; 64 in the paper.
        levels: Number L of levels below the first; 4 in the paper.
        gate: Mechanism of every skip connection, which takes the skip connection and the coarser map, such as
            "attention_gate"; None for none.
        gate_options: Options of the mechanism.

    Shape:
        - Input: `(B, channels, H, W)`, any H and W of at least `2^L`.
        - Output: `(B, classes, H, W)`.

    Raises:
        BadOption: A number is not positive, or the mechanism takes no gating signal.
        BadShape: For any other input shape.

    Note:
        The convolutions are padded, so that the output has the size of the input, and batch norm follows
        each: the paper has neither. As in the authors' code, the gate is trained from its initialization.

    Example:
        >>> model = UNet(classes=2, width=8, levels=2, gate="attention_gate")
        >>> model(torch.randn(1, 3, 64, 48)).shape
        torch.Size([1, 2, 64, 48])
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 16,
        levels: int = 4,
        gate: str | None = None,
        gate_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive("UNet", classes=classes, channels=channels, width=width, levels=levels)
        self.channels, self.levels = channels, levels
        widths = [width * 2**level for level in range(levels + 1)]
        above = [channels, *widths]
        self.encoder = nn.ModuleList(_block(above[level], widths[level]) for level in range(levels + 1))
        steps = [(widths[level + 1], widths[level]) for level in reversed(range(levels))]
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in steps)
        self.decoder = nn.ModuleList(_block(2 * fine, fine) for _, fine in steps)
        gated, options = steps if gate else [], gate_options or {}
        self.gates = nn.ModuleList(
            create(str(gate), fine, gating_channels=coarse, **options) for coarse, fine in gated
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        check_shape("UNet", images, "B C H W", C=self.channels)
        if min(images.shape[2:]) < 2**self.levels:
            raise bad_shape(
                "UNet", f"expected at least {2**self.levels} pixels for {self.levels} levels", images
            )
        skips: list[Tensor] = []
        x = images
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for step, skip in enumerate(reversed(skips[:-1])):
            gated = self.gates[step](skip, x) if self.gates else skip
            up = self.up[step](x)
            # max pooling dropped the last row or column of an odd size; no condition, for export to any size
            up = F.pad(up, (0, skip.shape[3] - up.shape[3], 0, skip.shape[2] - up.shape[2]))
            x = self.decoder[step](torch.cat([gated, up], 1))
        logits: Tensor = self.head(x)
        return logits


def _block(channels: int, width: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
