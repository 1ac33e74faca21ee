"""A model with one layer that publishes a given map."""

from __future__ import annotations

from torch import Tensor, nn

import saccade as sc


class Published(nn.Module):
    """A model with one layer that publishes a given map."""

    def __init__(self, attention: sc.AttentionMap) -> None:
        super().__init__()
        self.tap, self.attention = sc.Tap(), attention

    def forward(self, images: Tensor) -> Tensor:
        self.tap.publish(self.attention)
        return images.float().mean((2, 3))
