"""residual_mask equals its formula, batch statistics and running buffers included."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.layers.mixed.residual_mask import ResidualUnit, residual_mask
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, conv3x3, max_pool, pointwise, relu, resize, sigmoid

C = 16


def unit(norm: BatchNorms, p: Parameters, name: str, x: Tensor, stride: int = 1) -> Tensor:
    active = relu(norm(p, f"{name}norm1", x))
    z = relu(norm(p, f"{name}norm2", pointwise(p, f"{name}conv1", active)))
    z = relu(norm(p, f"{name}norm3", conv3x3(p, f"{name}conv2", z, stride=stride)))
    if f"{name}shortcut.weight" in p:
        x = pointwise(p, f"{name}shortcut", active[:, :, ::stride, ::stride])
    return x + pointwise(p, f"{name}conv3", z)


def units(norm: BatchNorms, p: Parameters, name: str, number: int, x: Tensor) -> Tensor:
    for i in range(number):
        x = unit(norm, p, f"{name}.{i}.", x)
    return x


def scores(norm: BatchNorms, p: Parameters, x: Tensor, depth: int, r: int, align: bool) -> Tensor:
    """The mask before its activation, level by level as in the paper's figure of it."""
    at = {0: x}
    for level in range(1, depth + 1):
        at[level] = units(norm, p, f"mask.down.{level - 1}", r, max_pool(at[level - 1]))
    y = units(norm, p, f"mask.up.{depth - 1}", r, at[depth])
    for level in range(depth - 1, 0, -1):
        y = resize(y, tuple(at[level].shape[2:]), align) + unit(norm, p, f"mask.skip.{level - 1}.", at[level])
        y = units(norm, p, f"mask.up.{level - 1}", r, y)
    y = resize(y, tuple(x.shape[2:]), align)
    y = pointwise(p, "mask.head.2", relu(norm(p, "mask.head.0", y)))
    return pointwise(p, "mask.head.5", relu(norm(p, "mask.head.3", y)))


def activate(scores: Tensor, activation: str) -> Tensor:
    if activation == "channel":
        return scores / (scores**2).sum(1, keepdim=True).sqrt()
    if activation == "spatial":
        flat = scores.flatten(2)
        standard = ((flat - flat.mean(-1, keepdim=True)) / flat.std(-1, keepdim=True, unbiased=False)).exp()
        return (standard / (1 + standard)).reshape(scores.shape)
    return torch.tanh(scores) if activation == "tanh" else sigmoid(scores)


def formula(
    norm: BatchNorms,
    p: Parameters,
    x: Tensor,
    *,
    depth: int = 1,
    activation: str = "mixed",
    p_: int = 1,
    t: int = 2,
    r: int = 1,
    align_corners: bool = True,
) -> Tensor:
    x = units(norm, p, "pre", p_, x)
    mask = activate(scores(norm, p, x, depth, r, align_corners), activation)
    trunk = units(norm, p, "trunk", t, x)
    return units(norm, p, "post", p_, (1 + mask) * trunk)


def trained(channels: int = C, **options: Any) -> nn.Module:
    """A module whose running statistics are not those of the start."""
    module = build("residual_mask", channels, **options)
    module(normal(4, channels, 16, 16, seed=1))
    return module


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 2},
        {"depth": 3},
        {"depth": 2, "align_corners": False},
        {"activation": "channel", "depth": 2},
        {"activation": "spatial"},
        {"activation": "tanh"},
        {"p": 2, "t": 1, "r": 2, "depth": 2},
    ],
    ids=str,
)
def test_equals_the_formula(options: dict[str, Any], training: bool) -> None:
    module = trained(**options)
    norm = BatchNorms(module.train(training))
    plain = {"p_" if name == "p" else name: value for name, value in options.items()}
    assert_parity(module, lambda p, x: formula(norm, p, x, **plain), normal(3, C, 17, 22))
    if training:
        norm.assert_running()
    else:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (11, 6), (4, 1), (2, 3), (1, 1), (1, 9)], ids=str)
def test_any_size_comes_back_to_its_reference(size: tuple[int, int], depth: int) -> None:
    module = trained(depth=depth).eval()
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: formula(norm, p, x, depth=depth), normal(2, C, *size))


@pytest.mark.parametrize(("channels", "out", "stride"), [(8, 8, 1), (8, 12, 1), (8, 8, 2), (4, 16, 2)])
def test_the_unit_projects_what_changes(channels: int, out: int, stride: int) -> None:
    torch.manual_seed(0)
    module = ResidualUnit(channels, out, stride).double()
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: unit(norm, p, "", x, stride), normal(3, channels, 7, 6))
    norm.assert_running()


def test_no_convolution_has_a_bias_and_the_bottleneck_is_a_quarter() -> None:
    module = sc.create("residual_mask", 32, depth=3)
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convs)
    # pre 1, trunk 2, down 3, up 3, skips 2, post 1: twelve units of three, and the two of the head.
    shapes = [(8, 32, 1, 1), (8, 8, 3, 3), (32, 8, 1, 1)] * 12 + [(32, 32, 1, 1)] * 2
    assert sorted(tuple(conv.weight.shape) for conv in convs) == sorted(shapes)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module.modules()) == 12 * 3 + 2


def test_the_mask_strengthens_and_does_not_silence() -> None:
    """With scores of 0, f1 is a half and tanh is 0: (1 + M) T is 1.5 T and T, never 0."""
    for activation, factor in (("mixed", 1.5), ("tanh", 1.0)):
        module, x = trained(activation=activation).eval(), normal(2, C, 7, 5)
        with torch.no_grad():
            module.get_submodule("mask").get_parameter("head.5.weight").zero_()
        trunk = module.get_submodule("trunk")(module.get_submodule("pre")(x))
        expected = module.get_submodule("post")(factor * trunk)
        assert_close(activation, module(x).detach(), expected.detach())


def test_the_three_activations_differ_as_the_paper_says() -> None:
    logits = 3 * normal(2, C, 7, 5) + normal(2, C, 1, 1, seed=1)
    mixed, channel, spatial = (residual_mask(logits, f) for f in ("mixed", "channel", "spatial"))
    # f1: each value by itself, whatever the others are.
    assert_close("f1", residual_mask(logits[:, :1, :1]), mixed[:, :1, :1])
    # f2: every position has length 1 over its channels, and its direction.
    assert_close("f2", channel.norm(dim=1), torch.ones(2, 7, 5).double())
    assert_close("f2 of 5 l", residual_mask(5 * logits, "channel"), channel)
    # f3: a channel's scale and level over the map do not matter, only where it is high.
    moved = 5 * logits + 2
    assert_close("f3 of 5 l + 2", residual_mask(moved, "spatial"), spatial)
    standard = torch.logit(spatial)
    assert standard.mean((2, 3)).abs().max() < 1e-12
    assert_close("f3's deviation", standard.var((2, 3), unbiased=False), torch.ones(2, C).double())
    assert not torch.allclose(residual_mask(moved, "mixed"), mixed)
    assert not torch.allclose(residual_mask(moved, "channel"), channel)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["channel", "spatial"])
def test_a_constant_or_empty_score_is_not_divided_by_zero(activation: Any, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 3, 4, 5, dtype=dtype)
    logits[0] = 7
    logits.requires_grad_()
    mask = residual_mask(logits, activation)
    expected = [3**-0.5, 0.0] if activation == "channel" else [0.5, 0.5]
    assert mask.dtype is dtype
    for image, value in zip(mask, expected, strict=True):
        torch.testing.assert_close(image, torch.full_like(image, value))
    assert torch.autograd.grad(mask.sum(), logits)[0].isfinite().all()


def test_a_single_position_at_the_bottom_cannot_train() -> None:
    module = sc.create("residual_mask", 8, depth=2)
    with raises(sc.BadShape, owner="residual_mask", option="shape", value=(1, 8, 7, 5)):
        module(torch.randn(1, 8, 7, 5))
    assert module(torch.randn(1, 8, 8, 5)).shape == (1, 8, 8, 5)
    assert module(torch.randn(2, 8, 1, 1)).shape == (2, 8, 1, 1)
    assert module.eval()(torch.randn(1, 8, 1, 1)).shape == (1, 8, 1, 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("channels", 3), ("depth", 4), ("activation", "relu"), ("p", 0), ("t", 0), ("r", 1.5)],
)
def test_bad_options_are_refused(option: str, value: Any) -> None:
    with raises(sc.BadOption, owner="residual_mask", option=option, value=value):
        sc.create("residual_mask", **{"channels": 8, option: value})


@pytest.mark.parametrize("shape", [(2, 9, 4, 4), (2, 10, 8), (0, 8, 4, 4), (2, 8, 4, 0)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="residual_mask", option="shape", value=shape):
        sc.create("residual_mask", 8)(torch.zeros(shape))


@pytest.mark.parametrize("activation", ["mixed", "channel", "spatial", "tanh"])
def test_nan_propagates(activation: str) -> None:
    module = sc.create("residual_mask", 8, activation=activation).eval()
    assert module(torch.full((1, 8, 4, 4), math.nan)).isnan().all()


def test_recorded_weights_are_the_mean_of_the_mask() -> None:
    module, x = trained(depth=2).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    norm, p = BatchNorms(module), dict(module.named_parameters())
    mask = sigmoid(scores(norm, p, units(norm, p, "pre", 1, x), 2, 1, True))
    assert_close("the recorded map", recorded.weights, mask.mean(1).detach())
