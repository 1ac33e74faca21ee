"""Convolutions of small maps: written out or called, they are those of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.ops.small_convolution import ShortConv1d, convolve
from support.parity import assert_close, normal


def calls(module: nn.Module, x: Tensor) -> int:
    """Run a module, and count the calls of the convolution of PyTorch."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        module(x)
    return sum(event.name == "aten::convolution" for event in profiler.events())


def of_torch(conv: ShortConv1d, x: Tensor) -> Tensor:
    return nn.Conv1d.forward(conv, x)


@pytest.mark.parametrize("size", [1, 3, 15])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"padding_mode": "circular"}])
def test_a_short_convolution_is_written_out(size: int, options: dict[str, Any]) -> None:
    conv = ShortConv1d(1, 1, size, padding=size // 2, **options).double()
    x, grad = normal(3, 1, 40).requires_grad_(), normal(3, 1, 40, seed=1)
    inputs = [x, *conv.parameters()]
    got, expected = conv(x), of_torch(conv, x)
    assert_close("output", got, expected)
    gradients = zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    )
    for value, reference in gradients:
        assert_close("a gradient", value, reference)
    assert torch.autograd.gradgradcheck(lambda x, *_: conv(x), inputs)
    assert calls(conv, x) == 0


@pytest.mark.parametrize(
    "conv",
    [
        ShortConv1d(1, 1, 17, padding=8),
        ShortConv1d(1, 1, 3),
        ShortConv1d(1, 1, 3, padding=1, stride=2),
        ShortConv1d(1, 1, 3, padding=2, dilation=2),
        ShortConv1d(1, 2, 3, padding=1),
        ShortConv1d(1, 1, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_other_convolutions_are_called(conv: ShortConv1d) -> None:
    x = torch.randn(2, 1, 40)
    assert torch.equal(conv(x), of_torch(conv, x))
    assert calls(conv, x) == 1


def test_an_autocast_sets_the_type_of_a_convolution() -> None:
    conv, x = ShortConv1d(1, 1, 3, padding=1), torch.randn(2, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16


def test_it_has_the_shape_of_torch_on_the_meta_device() -> None:
    assert ShortConv1d(1, 1, 3, padding=1, device="meta")(torch.randn(2, 1, 8, device="meta")).is_meta


def test_hooks_of_a_convolution_are_called() -> None:
    module, seen = nn.Conv2d(3, 4, 1), []
    module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    torch.compile(convolve, backend="eager")(module, torch.randn(1, 3, 2, 2))
    assert len(seen) == 1
