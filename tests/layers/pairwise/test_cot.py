"""cot equals the formula of the authors, with the local convolution as a loop over positions and offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from saccade.maps import OffsetMap
from saccade.ops.local_convolution import local_convolution
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise, relu, sigmoid

C = 16


def local(x: Tensor, weights: Tensor) -> Tensor:
    """Position by position and offset by offset; weights (B, G, k^2, H, W), channel c takes group c mod G."""
    (batch, channels, height, width), groups = x.shape, weights.shape[1]
    k = round(weights.shape[2] ** 0.5)
    which = torch.tensor([c % groups for c in range(channels)])
    columns = []
    for i in range(height):
        for j in range(width):
            total = torch.zeros(batch, channels, dtype=x.dtype)
            for t in range(k * k):
                y, z = i + t // k - k // 2, j + t % k - k // 2
                if 0 <= y < height and 0 <= z < width:
                    total = total + weights[:, which, t, i, j] * x[:, :, y, z]
            columns.append(total)
    return torch.stack(columns, 2).reshape(x.shape)


def attend(norm: BatchNorms, p: Parameters, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The static context and the weights of the windows."""
    weight = p["key.0.weight"]
    parts = zip(x.chunk(4, 1), weight.chunk(4), strict=True)
    static = torch.cat([F.conv2d(part, w, padding=k // 2) for part, w in parts], 1)
    static = relu(norm(p, "key.1", static))
    z = relu(norm(p, "attend.1", pointwise(p, "attend.0", torch.cat([x, static], 1))))
    logits = pointwise(p, "attend.3", z).unflatten(1, (C // 8, k * k))
    mean = logits.mean((2, 3, 4), keepdim=True)
    unit = (logits - mean) / ((logits - mean).square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
    scale, shift = (p[f"attend.4.{name}"].reshape(C // 8, k * k, 1, 1) for name in ("weight", "bias"))
    return static, unit * scale + shift


def plain(norm: BatchNorms, p: Parameters, x: Tensor, k: int = 3) -> Tensor:
    static, weights = attend(norm, p, x, k)
    value = norm(p, "value.1", pointwise(p, "value.0", x))
    dynamic = norm(p, "norm", local(value, weights))
    dynamic = dynamic * sigmoid(dynamic)
    means = (dynamic + static).mean((2, 3), keepdim=True)
    z = relu(norm(p, "select.1", pointwise(p, "select.0", means)))
    logits = pointwise(p, "select.3", z)[..., 0, 0]
    of_dynamic = sigmoid(logits[:, 0::2] - logits[:, 1::2])  # a softmax over two, laid out (C, 2)
    return of_dynamic[..., None, None] * dynamic + (1 - of_dynamic)[..., None, None] * static


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(3, C, 5, 4), (2, C, 1, 3), (2, C, 2, 2)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], kernel_size: int, training: bool) -> None:
    module, x = build("cot", C, kernel_size=kernel_size), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    vanishing = ["select.0.bias"] if training else []
    assert_parity(module, lambda p, x: plain(norm, p, x, kernel_size), x, vanishing=vanishing)
    if training:
        norm.assert_running()


def test_channels_that_share_weights_are_not_contiguous() -> None:
    """Channel c takes the weights c mod G. Contiguous groups would give other sums."""
    weights = torch.zeros(1, 2, 1, 1, 1)
    weights[0, 1] = 1
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert local_convolution(x, weights).flatten().tolist() == [0, 1, 0, 3, 0, 5]


@pytest.mark.parametrize("k", [1, 3])
def test_the_local_convolution_equals_its_loop(k: int) -> None:
    x, w = normal(2, 6, 4, 5).requires_grad_(), normal(2, 2, k * k, 4, 5, seed=1).requires_grad_()
    got, expected = local_convolution(x, w), local(x, w)
    assert_close("sums", got, expected)
    gradients = torch.autograd.grad(got.square().sum(), [x, w])
    for a, b in zip(gradients, torch.autograd.grad(expected.square().sum(), [x, w]), strict=True):
        assert_close("a gradient", a, b)


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("cot", 64).parameters()]
    assert shapes == [
        (64, 16, 3, 3),
        *[(64,)] * 2,
        (32, 128, 1, 1),
        *[(32,)] * 2,
        (72, 32, 1, 1),
        *[(72,)] * 3,
        (64, 64, 1, 1),
        *[(64,)] * 4,
        (32, 64, 1, 1),
        *[(32,)] * 3,
        (128, 32, 1, 1),
        (128,),
    ]


def test_the_recorded_maps_are_the_weights() -> None:
    module, x = build("cot", C).eval(), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        y = module(x)
    branches, windows = maps[""], maps["local"]
    assert isinstance(branches, sc.BranchMap)
    assert isinstance(windows, OffsetMap)
    assert_close("sums", branches.weights.sum(1), torch.ones(2, C).double())
    norm, p = BatchNorms(module), dict(module.named_parameters())
    _, weights = attend(norm, p, x, 3)
    value = norm(p, "value.1", pointwise(p, "value.0", x)).unflatten(1, (8, C // 8))
    mixed = torch.einsum("bgnm,bsgm->bsgn", windows.weights(), value.flatten(3)).reshape(x.shape)
    assert_close("local", mixed.detach(), local(value.flatten(1, 2), weights).detach())
    assert y.isfinite().all()


def test_windows_are_not_unfolded() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("cot", 32), x) <= 2 * 64 * 26 * 22


def test_a_batch_of_one_cannot_train() -> None:
    module = sc.create("cot", C)
    with raises(sc.BadShape, owner="cot", option="shape", value=(1, C, 4, 4)):
        module(torch.randn(1, C, 4, 4))
    assert module.eval()(torch.randn(1, C, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [(12, {}, "channels"), (16, {"kernel_size": 4}, "kernel_size"), (16, {"kernel_size": 0}, "kernel_size")],
    ids=str,
)
def test_bad_options_are_refused(channels: int, options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="cot", option=option, value=options.get(option, channels)):
        sc.create("cot", channels, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="cot", option="shape", value=shape):
        sc.create("cot", C)(torch.zeros(shape))
