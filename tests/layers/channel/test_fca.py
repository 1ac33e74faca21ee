"""fca equals its formula at every size; its buffer holds the DCT bases of the authors' frequencies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import pointwise, relu, sigmoid

C = 32
# Frequencies along height and along width, in the order of the authors' lists.
TOP16 = [0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2], [0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2]
LOW8 = [0, 0, 1, 1, 0, 2, 2, 1], [0, 1, 0, 1, 2, 0, 1, 2]
BOT4 = [6, 1, 3, 3], [6, 4, 4, 6]


def bases(heights: list[int], widths: list[int], size: int) -> Tensor:
    """One coefficient after the other, in float32 as in the released code."""
    images = torch.zeros(C, size, size)
    part = C // len(heights)
    for k, (u, v) in enumerate(zip(heights, widths, strict=True)):
        for i in range(size):
            for j in range(size):
                value = 1.0
                for frequency, place in ((u * (size // 7), i), (v * (size // 7), j)):
                    wave = math.cos(math.pi * frequency * (place + 0.5) / size) / math.sqrt(size)
                    value *= wave if frequency == 0 else wave * math.sqrt(2)
                images[k * part : (k + 1) * part, i, j] = value
    return images


def pool(x: Tensor, size: int) -> Tensor:
    """The mean of each window of an adaptive pool."""
    height, width = x.shape[2:]
    rows = []
    for i in range(size):
        top, bottom = math.floor(i * height / size), math.ceil((i + 1) * height / size)
        cells = []
        for j in range(size):
            left, right = math.floor(j * width / size), math.ceil((j + 1) * width / size)
            window = x[:, :, top:bottom, left:right]
            cells.append(window.sum((2, 3)) / ((bottom - top) * (right - left)))
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def gate(p: Parameters, x: Tensor, images: Tensor) -> Tensor:
    z = (pool(x, images.shape[-1]) * images).sum((2, 3))
    return sigmoid(pointwise(p, "expand", relu(pointwise(p, "reduce", z))))


@pytest.mark.parametrize(
    ("options", "size"), [({}, 7), ({"size": 14, "reduction": 4}, 14), ({"frequencies": "low8"}, 7)], ids=str
)
@pytest.mark.parametrize("shape", [(2, C, 7, 7), (1, C, 14, 14), (2, C, 9, 5), (2, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any], size: int) -> None:
    module = build("fca", C, **options)
    images = module.get_buffer("bases")
    assert images.shape[-1] == size
    assert_parity(module, lambda p, x: x * gate(p, x, images)[:, :, None, None], normal(*shape))


@pytest.mark.parametrize(
    ("frequencies", "expected"), [("top16", TOP16), ("low8", LOW8), ("bot4", BOT4), ("top1", ([0], [0]))]
)
@pytest.mark.parametrize("size", [7, 13, 14, 28])
def test_bases_are_the_cosines_of_the_authors(
    frequencies: str, expected: tuple[list[int], list[int]], size: int
) -> None:
    images = sc.create("fca", C, frequencies=frequencies, size=size).get_buffer("bases")
    torch.testing.assert_close(images, bases(*expected, size), rtol=0, atol=1e-7)


@pytest.mark.parametrize("criterion", ["top", "low", "bot"])
def test_the_32_frequencies_are_different_and_orthonormal(criterion: str) -> None:
    images = sc.create("fca", C, frequencies=f"{criterion}32").get_buffer("bases").flatten(1)
    torch.testing.assert_close(images @ images.mT, torch.eye(C), rtol=0, atol=1e-6)


def test_the_lowest_frequency_is_a_sum_not_a_mean() -> None:
    """Of an orthonormal basis: 7 times the mean of 7 x 7 positions."""
    module, x = build("fca", C, frequencies="top1"), normal(2, C, 7, 7)
    p = dict(module.named_parameters())
    z = 7 * x.mean((2, 3))
    expected = sigmoid(pointwise(p, "expand", relu(pointwise(p, "reduce", z))))
    torch.testing.assert_close(module(x), x * expected[:, :, None, None], rtol=1e-6, atol=1e-6)


def test_parameters_and_buffers_are_those_of_the_authors_in_their_order() -> None:
    state = sc.create("fca", 64, size=14).state_dict()
    assert [tuple(value.shape) for value in state.values()] == [(64, 14, 14), (4, 64), (64, 4)]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"frequencies": "top3"}, "frequencies"),
        ({"frequencies": 16}, "frequencies"),
        ({"reduction": 0}, "reduction"),
        ({"size": 6}, "size"),
        ({"size": True}, "size"),
        ({"size": 7.0}, "size"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="fca", option=option, value=options[option]):
        sc.create("fca", C, **options)


@pytest.mark.parametrize(("channels", "reduction"), [(24, 16), (16, 17)])
def test_channels_that_do_not_divide_are_refused(channels: int, reduction: int) -> None:
    with raises(sc.BadOption, owner="fca", option="channels", value=channels):
        sc.create("fca", channels, reduction=reduction)


@pytest.mark.parametrize("shape", [(2, C + 16, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="fca", option="shape", value=shape):
        sc.create("fca", C)(torch.zeros(shape))


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("fca", C), normal(2, C, 9, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    expected = gate(dict(module.named_parameters()), x, module.get_buffer("bases"))
    assert_close("weights", recorded.weights, expected.detach())
