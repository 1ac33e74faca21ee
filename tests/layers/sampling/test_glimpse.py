"""glimpse equals patches read pixel by pixel: bilinear at the location, then means of blocks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.layers.sampling.glimpse import glimpse
from support.errors import raises
from support.parity import Parameters, assert_parity, build, normal


def pixel(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The image at a point between pixels; what is outside counts as 0. (C, H, W) -> (C,)."""
    value = image.new_zeros(image.shape[0])
    for row, column in itertools.product((0, 1), (0, 1)):
        i, j = math.floor(y.item()) + row, math.floor(x.item()) + column
        if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
            value = value + image[:, i, j] * (1 - (y - i).abs()) * (1 - (x - j).abs())
    return value


def formula(size: int, scales: int, factor: int) -> Any:
    """The paper's retina with loops: x (B, C, H, W), l (B, 2) -> (B, scales * C, size, size)."""

    def reference(_: Parameters, x: Tensor, locations: Tensor) -> Tensor:
        height, width = x.shape[2:]
        images = []
        for image, location in zip(x, locations, strict=True):
            center_x, center_y = (location + 1) / 2 * torch.tensor([width, height]) - 0.5
            patches = []
            for scale in range(scales):
                block = factor**scale
                middle = (size * block - 1) / 2
                rows = []
                for i, j in itertools.product(range(size), range(size)):
                    total = image.new_zeros(image.shape[0])
                    for di, dj in itertools.product(range(block), range(block)):
                        y, x_ = center_y + i * block + di - middle, center_x + j * block + dj - middle
                        total = total + pixel(image, y, x_)
                    rows.append(total / block**2)
                patches.append(torch.stack(rows, 1).reshape(-1, size, size))
            images.append(torch.cat(patches))
        return torch.stack(images)

    return reference


@pytest.mark.parametrize(
    ("size", "scales", "factor"), [(4, 1, 2), (3, 2, 2), (5, 1, 2), (2, 2, 3), (1, 3, 2)]
)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 5), (2, 1, 3, 11)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], size: int, scales: int, factor: int) -> None:
    module = build("glimpse", shape[1], size=size, scales=scales, scale_factor=factor)
    locations = normal(shape[0], 2, seed=1) * 0.6
    assert_parity(module, formula(size, scales, factor), normal(*shape), locations)


@pytest.mark.parametrize(("size", "shape", "top", "left"), [(8, (28, 28), 10, 10), (5, (9, 13), 2, 4)])
def test_the_centre_is_cut_pixel_by_pixel(size: int, shape: tuple[int, int], top: int, left: int) -> None:
    x = normal(2, 3, *shape)
    cut = x[:, :, top : top + size, left : left + size]
    torch.testing.assert_close(glimpse(x, x.new_zeros(2, 2), size), cut, rtol=0, atol=1e-12)


def test_a_location_is_x_then_y_and_corners_are_edges() -> None:
    x = torch.zeros(1, 1, 6, 10)
    x[0, 0, 0, 9] = 1  # the upper right corner: x = 1, y = -1, of which the patch holds a quarter
    patch = glimpse(x, torch.tensor([[1.0, -1.0]]), size=2)
    assert patch[0, 0].round(decimals=5).tolist() == [[0, 0], [1, 0]]


def test_a_coarse_scale_is_the_mean_of_blocks() -> None:
    x = normal(1, 1, 16, 16)
    coarse = glimpse(x, x.new_zeros(1, 2), size=4, scales=3)[:, 2]
    torch.testing.assert_close(coarse, x.reshape(1, 4, 4, 4, 4).mean((2, 4)), rtol=0, atol=1e-12)


def test_far_outside_is_zero_and_nan_stays_in_its_image() -> None:
    x = torch.rand(3, 1, 9, 9)
    locations = torch.tensor([[9.0, 9.0], [float("nan"), 0.0], [0.0, 0.0]])
    patches = glimpse(x, locations, size=3)
    assert not patches[0].any()
    torch.testing.assert_close(patches[2], x[2, :, 3:6, 3:6])


def test_recorded_footprints() -> None:
    module = sc.create("glimpse", 3, size=4, scales=2)
    with sc.record(module) as maps:
        module(torch.rand(2, 3, 8, 16), torch.tensor([[0.0, 0.0], [-1.0, -1.0]]))
    recorded = maps[""]
    assert isinstance(recorded, sc.FixationMap)
    assert recorded.locations.shape == (2, 1, 2)
    saliency = recorded.saliency()
    assert saliency.shape == (2, 8, 16)
    assert saliency[0].sum() == 4 * 4 + 8 * 8
    assert saliency[1, 0, 0] == 2
    assert saliency[1].sum() == 2 * 2 + 4 * 4


@pytest.mark.parametrize(("option", "value"), [("size", 0), ("scales", -1), ("scale_factor", 1.5)])
def test_bad_options(option: str, value: float) -> None:
    with raises(sc.BadOption, owner="glimpse", option=option, value=value):
        sc.create("glimpse", 3, **{option: value})


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (2,), (2, 2, 1)], ids=str)
def test_locations_must_be_a_pair_for_each_image(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="glimpse", option="shape", value=shape):
        sc.create("glimpse", 3)(torch.zeros(2, 3, 9, 9), torch.zeros(shape))
