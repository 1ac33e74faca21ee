"""ela equals its formula, tap by tap; both axes share the convolution and the norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.coord_attn import EfficientLocalAttn
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import sigmoid

C = 16


def convolution(weight: Tensor, x: Tensor) -> Tensor:
    """A 1-D convolution of groups as a sum over its taps."""
    width, size = weight.shape[1:]
    padded, length = F.pad(x, [size // 2] * 2), x.shape[2]
    channels = []
    for c in range(C):
        first = c // width * width  # of the channels in the group of c
        windows = [padded[:, first : first + width, i : i + length] for i in range(size)]
        channels.append(torch.einsum("ki,ibkl->bl", weight[c], torch.stack(windows)))
    return torch.stack(channels, 1)


def group_norm(p: Parameters, x: Tensor, groups: int) -> Tensor:
    parts = []
    for part in x.split(C // groups, dim=1):
        mean = part.mean((1, 2), keepdim=True)
        parts.append((part - mean) / (((part - mean) ** 2).mean((1, 2), keepdim=True) + 1e-5) ** 0.5)
    return torch.cat(parts, 1) * p["norm.weight"][:, None] + p["norm.bias"][:, None]


def gates(p: Parameters, x: Tensor, norm_groups: int = 16) -> tuple[Tensor, Tensor]:
    height, width = x.shape[2:]
    rows, columns = x.sum(3) / width, x.sum(2) / height
    by_row, by_column = (
        sigmoid(group_norm(p, convolution(p["conv.weight"], means), norm_groups)) for means in (rows, columns)
    )
    return by_row, by_column


def plain(p: Parameters, x: Tensor, norm_groups: int = 16) -> Tensor:
    return torch.einsum("bchw,bch,bcw->bchw", x, *gates(p, x, norm_groups))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"kernel_size": 5, "groups": C},
    {"kernel_size": 3, "groups": 1, "norm_groups": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 8, 8), (1, C, 7, 5), (2, C, 1, 6)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module, groups = build("ela", C, **options), options.get("norm_groups", 16)
    # A group of one channel and one position has a variance of 0: its gradients are 0 up to rounding.
    assert_parity(module, lambda p, x: plain(p, x, groups), normal(*shape))


def test_one_position_in_one_group_of_the_norm_gives_its_bias() -> None:
    module, x = build("ela", C), normal(1, C, 1, 1)
    gate = sigmoid(dict(module.named_parameters())["norm.bias"])
    assert_close("output", module(x), x * (gate**2)[:, None, None])


class Norm(nn.GroupNorm):
    def __init__(self, channels: int, **_: Any) -> None:
        super().__init__(16, channels)


def test_equals_timm_with_equal_weights_of_both_axes() -> None:
    """timm's module has a convolution and a norm for each axis, and an activation, which is left out here."""
    theirs = EfficientLocalAttn(C, act_layer=nn.Identity, norm_layer=Norm).double()

    def reference(p: Parameters, x: Tensor) -> Tensor:
        kernel = p["conv.weight"]
        mapped = {"conv_h.weight": kernel.unsqueeze(3), "conv_w.weight": kernel.unsqueeze(2)}
        for name in ("norm_h", "norm_w"):
            mapped |= {f"{name}.weight": p["norm.weight"], f"{name}.bias": p["norm.bias"]}
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    assert_parity(build("ela", C, groups=C), reference, normal(2, C, 7, 5))


@pytest.mark.parametrize("channels", [64, 256])
def test_the_defaults_are_the_large_version_of_the_paper(channels: int) -> None:
    module = sc.create("ela", channels)
    assert [tuple(p.shape) for p in module.parameters()] == [(channels, 8, 7), (channels,), (channels,)]
    assert module.get_submodule("norm").num_groups == 16


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, C, 24, 20)
    assert largest_tensor(sc.create("ela", C), x) == x.numel()


@pytest.mark.parametrize(
    "options", [{"kernel_size": 4}, {"kernel_size": 0}, {"groups": 0}, {"norm_groups": -1}], ids=str
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    with raises(sc.BadOption, owner="ela", option=option, value=value):
        sc.create("ela", C, **options)


@pytest.mark.parametrize(("channels", "options"), [(24, {}), (20, {"norm_groups": 4, "groups": 3})], ids=str)
def test_channels_that_do_not_divide_are_refused(channels: int, options: dict[str, Any]) -> None:
    with raises(sc.BadOption, owner="ela", option="channels", value=channels):
        sc.create("ela", channels, **options)


@pytest.mark.parametrize("shape", [(2, C + 16, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ela", option="shape", value=shape):
        sc.create("ela", C)(torch.zeros(shape))


def test_the_recorded_map_is_the_product_averaged_over_channels() -> None:
    module, x = build("ela", C), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1).detach())
