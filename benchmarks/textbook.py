"""Textbook forms of mechanisms, which the benchmarks and the tests compare with ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextbookSE(nn.Module):
    """Squeeze-and-excitation as commonly implemented: adaptive pooling and two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, channels // 16),
            nn.ReLU(),
            nn.Linear(channels // 16, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.layers(x)
        return x * weights[:, :, None, None]


class TextbookCoordinate(nn.Module):
    """Coordinate attention as commonly implemented: adaptive pooling of both axes, a concatenation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.reduce = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.rows, self.columns = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.adaptive_avg_pool2d(x, (None, 1))
        columns = F.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
        by_row, by_column = self.reduce(torch.cat([rows, columns], 2)).split([*x.shape[2:]], 2)
        gate = torch.sigmoid(self.columns(by_column.permute(0, 1, 3, 2)))
        return x * gate * torch.sigmoid(self.rows(by_row))


class TextbookCBAM(nn.Module):
    """CBAM as commonly implemented: adaptive pooling, `amax`, a concatenation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // 16, 1), nn.ReLU(), nn.Conv2d(channels // 16, channels, 1)
        )
        self.conv = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(pooled)
        return x * torch.sigmoid(self.conv(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)))


class TextbookMultiHead(nn.Module):
    """Multi-head attention over pixels with materialized weights."""

    def __init__(self, channels: int, heads: int = 8) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = (
            heads,
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(tokens).chunk(3, -1))
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        y: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return y.transpose(1, 2).reshape(x.shape)


class PeerMultiHead(nn.Module):
    """torch.nn.MultiheadAttention over pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return y.transpose(1, 2).reshape(x.shape)


class TextbookBAM(nn.Module):
    """BAM as commonly implemented: the gates of both branches are expanded to the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.channel = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()]
        for _ in range(2):
            dilated = nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4)
            layers += [dilated, nn.BatchNorm2d(hidden), nn.ReLU()]
        self.spatial = nn.Sequential(*layers, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        channel = self.channel(pooled)[:, :, None, None].expand_as(x)
        gate: Tensor = 1 + torch.sigmoid(channel * self.spatial(x).expand_as(x))
        return gate * x
