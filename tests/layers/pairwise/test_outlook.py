"""outlook equals its formula, written as loops over windows, and timm's OutlookAttention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.volo import OutlookAttention
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, HEADS = 12, 3


def plain(p: Parameters, x: Tensor, k: int = 3, stride: int = 1) -> Tensor:
    return pointwise(p, "proj", windows(p, x, pointwise(p, "v", x).unflatten(1, (HEADS, -1)), k, stride))


def windows(p: Parameters, x: Tensor, v: Tensor, k: int, stride: int) -> Tensor:
    """The sums over windows of their weighted values, (B, C, H, W), one pair of positions at a time."""
    height, width = x.shape[2:]
    result = torch.zeros_like(v)
    for y in range(0, height, stride):
        for z in range(0, width, stride):
            center = x[:, :, y : y + stride, z : z + stride].mean((2, 3))
            logits = (center @ p["attn.weight"].T + p["attn.bias"]).unflatten(1, (HEADS, k * k, k * k))
            exponents = (logits / (C / HEADS) ** 0.5).exp()
            weights = exponents / exponents.sum(3, keepdim=True)
            places = [(y + i - k // 2, z + j - k // 2) for i in range(k) for j in range(k)]
            inside = [(n, i, j) for n, (i, j) in enumerate(places) if 0 <= i < height and 0 <= j < width]
            for a, i, j in inside:
                total = torch.zeros_like(v[..., 0, 0])
                for b, m, n in inside:
                    total = total + weights[:, :, a, b, None] * v[..., m, n]
                grid = torch.zeros(height, width, dtype=x.dtype)
                grid[i, j] = 1
                result = result + total[..., None, None] * grid
    return result.flatten(1, 2)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, C, 5, 4), {}),
        ((1, C, 4, 4), {"stride": 2}),
        ((2, C, 5, 3), {"stride": 2}),
        ((1, C, 7, 4), {"stride": 3}),
        ((1, C, 4, 3), {"kernel_size": 5}),
        ((2, C, 3, 2), {"kernel_size": 1}),
        ((2, C, 1, 1), {}),
        ((2, C, 1, 1), {"stride": 2}),
    ],
    ids=str,
)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, int]) -> None:
    k, stride = options.get("kernel_size", 3), options.get("stride", 1)
    assert_parity(
        build("outlook", C, heads=HEADS, **options), lambda p, x: plain(p, x, k, stride), normal(*shape)
    )


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (5, 3)])
@pytest.mark.parametrize("shape", [(2, C, 8, 6), (2, C, 7, 5)], ids=str)
def test_equals_timm(shape: tuple[int, ...], kernel_size: int, stride: int) -> None:
    theirs = OutlookAttention(C, HEADS, kernel_size, padding=kernel_size // 2, stride=stride).double()

    def reference(p: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(p), (x.permute(0, 2, 3, 1),))
        return result.permute(0, 3, 1, 2)

    module = build("outlook", C, heads=HEADS, kernel_size=kernel_size, stride=stride)
    assert_parity(module, reference, normal(*shape))


def test_overlapping_windows_are_added() -> None:
    """With equal weights and values of 1, an inner position receives 1 from each of 9 windows."""
    weights = torch.full((1, 25, 1, 9, 9), 1 / 9, dtype=torch.float64)
    ones = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    mixed = sc.spec("outlook").function(weights, ones, 3)
    assert mixed[0, 0, 2, 2].item() == pytest.approx(9)
    assert mixed[0, 0, 0, 0].item() == pytest.approx((4 + 6 + 6 + 9) / 9)  # padding has weights and no values


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    module = sc.create("outlook", 64)
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    assert shapes == [
        ("v.weight", (64, 64)),
        ("attn.weight", (648, 64)),
        ("attn.bias", (648,)),
        ("proj.weight", (64, 64)),
        ("proj.bias", (64,)),
    ]
    assert module.get_parameter("attn.weight").std().item() == pytest.approx(0.02, rel=0.05)


def test_no_tensor_holds_the_windows_of_all_heads() -> None:
    x = torch.randn(1, 64, 24, 20)
    assert largest_tensor(sc.create("outlook", 64, heads=4), x) == 4 * 81 * 24 * 20 < 9 * x.numel()


@pytest.mark.parametrize(("shape", "stride"), [((2, C, 5, 4), 1), ((2, C, 5, 3), 2)], ids=str)
def test_the_recorded_map_is_the_weight_received(shape: tuple[int, ...], stride: int) -> None:
    """The gradient of the sum of all results, for values that the heads share."""
    module, x = build("outlook", C, heads=HEADS, stride=stride), normal(*shape)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    shared = torch.zeros(2, *shape[2:], dtype=x.dtype, requires_grad=True)
    values = shared[:, None, None].expand(-1, HEADS, 1, -1, -1) / HEADS
    total = windows(dict(module.named_parameters()), x, values, 3, stride).sum()
    (received,) = torch.autograd.grad(total, shared)
    assert_close("weights", recorded.weights, received)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"heads": 5}, "channels"),
        ({"heads": 0}, "heads"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"stride": 0}, "stride"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="outlook", option=option, value=options.get(option, C)):
        sc.create("outlook", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="outlook", option="shape", value=shape):
        sc.create("outlook", C, heads=HEADS)(torch.zeros(shape))
