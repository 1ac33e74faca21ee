"""Small networks for the tests of `attach`: residual ones in one to three dimensions, and unusual ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Block(nn.Module):
    """Two convolutions and a shortcut, dropout on the branch, and an in-place ReLU that is called twice."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        conv, norm = CONVOLUTIONS[dims], NORMS[dims]
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.drop = nn.Dropout(0.2)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            nn.Sequential(conv(inputs, outputs, 1, stride, bias=False), norm(outputs)) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.drop(self.norm2(self.conv2(out)))
        out += shortcut
        return self.relu(out)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A stem and two stages of two blocks."""

    def __init__(self, dims: int = 2, width: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            CONVOLUTIONS[dims](3, width, 3, 1, 1, bias=False), NORMS[dims](width), nn.ReLU(inplace=True)
        )
        self.stage1 = nn.Sequential(Block(dims, width, width, 1), Block(dims, width, width, 1))
        self.stage2 = nn.Sequential(Block(dims, width, 2 * width, 2), Block(dims, 2 * width, 2 * width, 1))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stem(x)))
        return self.head(x.flatten(2).mean(2))  # type: ignore[no-any-return]


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions with ReLUs."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Two levels down and up, joined by functions between the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, 16), double(16, 32), double(32, 32)
        self.up2, self.up1 = double(64, 16), double(32, 16)
        self.classify = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        return self.classify(self.up1(torch.cat([F.interpolate(middle, scale_factor=2.0), fine[:, :16]], 1)))  # type: ignore[no-any-return]


class Loops(nn.Module):
    """A network whose body calls all its children in order, including any that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Children()
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))  # type: ignore[no-any-return]


class Children(nn.Module):
    """A module that calls all its children in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class Shared(nn.Module):
    """One convolution at two paths, one norm that is called twice and one layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = self.second
        self.norm = nn.BatchNorm2d(16)
        self.unused = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.norm(self.first(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Named(nn.Module):
    """Takes an image and a number as keyword arguments; the image is not the first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.attention = nn.Linear(16, 2)  # the name that attach would use

    def forward(self, scale: Tensor, image: Tensor) -> Tensor:
        return self.attention(self.conv(image).mean((2, 3))) * scale  # type: ignore[no-any-return]
