"""channel_gate, spatial_gate and cbam equal their formulas, batch norm and its buffers included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from saccade.layers.channel.channel_gate import POOLS as OURS
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

C, REDUCTION = 24, 4

# As in the authors' code, on maps.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: F.avg_pool2d(x, x.shape[2:]),
    "max": lambda x: F.max_pool2d(x, x.shape[2:]),
    "lp": lambda x: F.lp_pool2d(x, 2, (x.shape[2], x.shape[3])),
    "lse": lambda x: x.exp().sum((2, 3), keepdim=True).log(),
}


def channel_gate(
    parameters: Parameters, x: Tensor, pools: Sequence[str] = ("avg", "max"), prefix: str = ""
) -> Tensor:
    total = torch.zeros((), dtype=x.dtype)
    for pool in pools:
        z = POOLS[pool](x).flatten(1)
        hidden = z @ parameters[f"{prefix}mlp.0.weight"].T + parameters[f"{prefix}mlp.0.bias"]
        rectified = torch.clamp(hidden, min=0)
        total = total + rectified @ parameters[f"{prefix}mlp.2.weight"].T + parameters[f"{prefix}mlp.2.bias"]
    return x / (1 + torch.exp(-total))[:, :, None, None]


def normalized(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (z - mean) / (variance + 1e-5).sqrt()


def logits(parameters: Parameters, x: Tensor, prefix: str = "") -> Tensor:
    """The wide convolution of (max, mean), as a sum over its taps."""
    weight = parameters[f"{prefix}conv.weight"]
    size, (height, width) = weight.shape[-1], x.shape[2:]
    planes = torch.stack([torch.max(x, 1)[0], torch.mean(x, 1)], 1)
    padded = F.pad(planes, [size // 2] * 4)
    total = torch.zeros((), dtype=x.dtype)
    for dy in range(size):
        for dx in range(size):
            window = padded[:, :, dy : dy + height, dx : dx + width]
            total = total + (weight[0, :, dy, dx, None, None] * window).sum(1, keepdim=True)
    return total


def spatial_gate(
    parameters: Parameters, x: Tensor, *, batch_norm: bool = True, relu: bool = False, prefix: str = ""
) -> Tensor:
    z = logits(parameters, x, prefix)
    if batch_norm:
        z = normalized(z, z.mean(), z.var(unbiased=False))
        z = z * parameters[f"{prefix}norm.weight"] + parameters[f"{prefix}norm.bias"]
    return x / (1 + torch.exp(-(torch.clamp(z, min=0) if relu else z)))


@pytest.mark.parametrize(
    "pools", [("avg", "max"), ("max",), ("avg",), ("lp",), ("lse",), ("avg", "max", "lp", "lse")], ids=str
)
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5)], ids=str)
def test_channel_gate_equals_the_formula(pools: tuple[str, ...], shape: tuple[int, ...]) -> None:
    module = build("channel_gate", C, reduction=REDUCTION, pools=pools)
    assert_parity(module, lambda p, x: channel_gate(p, x, pools), normal(*shape))


@pytest.mark.parametrize("shape", [(2, C, 9), (2, C, 3, 4, 5)], ids=str)
def test_channel_gate_of_sequences_and_clips(shape: tuple[int, ...]) -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        return channel_gate(parameters, x.flatten(2)[:, :, None]).reshape(x.shape)

    assert_parity(build("channel_gate", C, reduction=REDUCTION), reference, normal(*shape))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 3},
        {"batch_norm": False},
        {"relu": True},
        {"batch_norm": False, "relu": True, "kernel_size": 5},
    ],
    ids=str,
)
def test_spatial_gate_equals_the_formula(options: dict[str, Any]) -> None:
    switches = {name: value for name, value in options.items() if name != "kernel_size"}
    module = build("spatial_gate", C, **options)
    assert_parity(module, lambda p, x: spatial_gate(p, x, **switches), normal(3, C, 7, 5))


@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 3, "pools": ("max", "lse")}, {"spatial": False}],
    ids=str,
)
def test_cbam_is_the_channel_gate_and_then_the_spatial_gate(options: dict[str, Any]) -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        gated = channel_gate(parameters, x, options.get("pools", ("avg", "max")), "channel.")
        return spatial_gate(parameters, gated, prefix="spatial.") if options.get("spatial", True) else gated

    module = build("cbam", C, reduction=REDUCTION, **options)
    assert_parity(module, reference, normal(3, C, 7, 5))


def test_batch_norm_keeps_its_statistics_and_uses_them_in_eval_mode() -> None:
    module, x = build("spatial_gate", C), normal(3, C, 7, 5)
    parameters = dict(module.named_parameters())
    z = logits(parameters, x)
    module(x)
    buffers = dict(module.named_buffers())
    mean, variance = 0.01 * z.mean()[None], 0.99 + 0.01 * z.var(unbiased=True)[None]
    assert_close("running mean", buffers["norm.running_mean"], mean)
    assert_close("running variance", buffers["norm.running_var"], variance)
    assert buffers["norm.num_batches_tracked"].item() == 1

    def reference(p: Parameters, x: Tensor) -> Tensor:
        unit = normalized(logits(p, x), mean.detach(), variance.detach())
        return x / (1 + torch.exp(-unit * p["norm.weight"] - p["norm.bias"]))

    assert_parity(module.eval(), reference, normal(2, C, 4, 6, seed=1))
    assert buffers["norm.num_batches_tracked"].item() == 1


@pytest.mark.parametrize(("plane", "descriptor"), [(0, "max"), (1, "mean")])
def test_the_first_plane_is_the_maximum_and_the_second_the_mean(plane: int, descriptor: str) -> None:
    module = build("spatial_gate", C, kernel_size=1, batch_norm=False)
    weight = dict(module.named_parameters())["conv.weight"]
    with torch.no_grad():
        weight.zero_()
        weight[0, plane] = 1
    x = normal(2, C, 4, 3)
    expected = x.amax(1, keepdim=True) if descriptor == "max" else x.mean(1, keepdim=True)
    assert_close(descriptor, module(x).detach(), x * expected.sigmoid())


def gradient(pooled: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(pooled.sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (2, C, 33, 17), (1, C, 1, 5)], ids=str)
def test_among_equal_maxima_the_gradient_goes_where_max_pooling_sends_it(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = F.relu(normal(*shape) - 0.5).round().to(dtype)
    x[0, 0] = 0  # as a dead feature after a ReLU: every position is a maximum
    x.requires_grad_()
    ours = gradient(OURS["max"](x.flatten(2)), x)
    assert torch.equal(ours, gradient(F.adaptive_max_pool2d(x, 1), x))
    assert ours.sum().item() == shape[0] * shape[1]  # one position each


def test_among_equal_channels_the_gradient_goes_where_torch_max_sends_it() -> None:
    x = F.relu(normal(2, C, 7, 5) - 0.5).round()
    assert (x.amax(1, keepdim=True) == x).sum() > x[:, 0].numel()  # there are ties
    assert_parity(
        build("spatial_gate", C, batch_norm=False), lambda p, x: spatial_gate(p, x, batch_norm=False), x
    )
    assert_parity(build("channel_gate", C), channel_gate, x)


def test_one_position_cannot_train_a_batch_norm() -> None:
    module: nn.Module = sc.create("cbam", C)
    with raises(sc.BadShape, owner="spatial_gate", option="shape", value=(1, C, 1, 1)):
        module(torch.randn(1, C, 1, 1))
    assert module.eval()(torch.randn(1, C, 1, 1)).shape == (1, C, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "owner", "option", "value"),
    [
        ("channel_gate", {"reduction": 25}, "channel_gate", "channels", C),
        ("channel_gate", {"pools": "avg"}, "channel_gate", "pools", "avg"),
        ("channel_gate", {"pools": ()}, "channel_gate", "pools", ()),
        ("channel_gate", {"pools": ("mean",)}, "channel_gate", "pools", "mean"),
        ("spatial_gate", {"kernel_size": 4}, "spatial_gate", "kernel_size", 4),
        ("cbam", {"kernel_size": 0}, "spatial_gate", "kernel_size", 0),
        ("cbam", {"hidden": 0}, "channel_gate", "hidden", 0),
        ("cbam", {"spatial_pools": ("mean",)}, "spatial_gate", "pools", "mean"),
        ("spatial_gate", {"pools": ("max", "max")}, "spatial_gate", "pools", ("max", "max")),
    ],
)
def test_bad_options_are_refused(
    name: str, options: dict[str, Any], owner: str, option: str, value: object
) -> None:
    with raises(sc.BadOption, owner=owner, option=option, value=value):
        sc.create(name, C, **options)


def test_recorded_weights_are_the_gates() -> None:
    module, x = build("cbam", C).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    channel, spatial = maps["channel"], maps["spatial"]
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    product = channel.weights[:, :, None, None] * spatial.weights[:, None] * x
    torch.testing.assert_close(product, y.detach())
