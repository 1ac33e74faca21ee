"""spatial_reduction equals its formula, block by block, and the attention of timm's PVT v2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.pvt_v2 import Attention
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, HEADS = 12, 3


def reduced(p: Parameters, x: Tensor, ratio: int) -> Tensor:
    """(B, C, ceil(H / r), ceil(W / r)), each block of r x r positions as far as the map reaches."""
    if ratio == 1:
        return x
    rows = []
    for i in range(0, x.shape[2], ratio):
        row = []
        for j in range(0, x.shape[3], ratio):
            block = x[:, :, i : i + ratio, j : j + ratio]
            kernel = p["sr.weight"][:, :, : block.shape[2], : block.shape[3]]
            row.append(torch.einsum("ocij,bcij->bo", kernel, block) + p["sr.bias"])
        rows.append(torch.stack(row, 2))
    z = torch.stack(rows, 2)
    centered = z - z.mean(1, keepdim=True)
    unit = centered / ((centered**2).mean(1, keepdim=True) + 1e-5).sqrt()
    return unit * p["norm.weight"][:, None, None] + p["norm.bias"][:, None, None]


def plain_weights(p: Parameters, x: Tensor, ratio: int) -> Tensor:
    """(B, heads, N, M), one query at a time."""
    q = pointwise(p, "q", x).flatten(2).unflatten(1, (HEADS, -1))
    k = pointwise(p, "kv", reduced(p, x, ratio)).flatten(2)[:, :C].unflatten(1, (HEADS, -1))
    rows = []
    for i in range(q.shape[3]):
        exponents = (torch.einsum("bhd,bhdj->bhj", q[..., i], k) / (C / HEADS) ** 0.5).exp()
        rows.append(exponents / exponents.sum(2, keepdim=True))
    return torch.stack(rows, 2)


def plain(p: Parameters, x: Tensor, ratio: int = 2) -> Tensor:
    v = pointwise(p, "kv", reduced(p, x, ratio)).flatten(2)[:, C:].unflatten(1, (HEADS, -1))
    mixed = torch.einsum("bhij,bhdj->bhdi", plain_weights(p, x, ratio), v)
    return pointwise(p, "proj", mixed.flatten(1, 2)).reshape(x.shape)


@pytest.mark.parametrize("options", [{}, {"ratio": 3, "qkv_bias": True}, {"ratio": 1}, {"ratio": 4}], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, C, 6, 4), (2, C, 7, 5), (1, C, 3, 8), (2, C, 1, 5), (1, C, 1, 1)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module = build("spatial_reduction", C, heads=HEADS, **options)
    assert_parity(module, lambda p, x: plain(p, x, options.get("ratio", 2)), normal(*shape))


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_equals_timm(ratio: int) -> None:
    theirs = Attention(C, HEADS, sr_ratio=ratio, linear_attn=False, qkv_bias=False).double()

    def reference(p: Parameters, x: Tensor) -> Tensor:
        tokens: Tensor = functional_call(theirs, dict(p), (x.flatten(2).mT, list(x.shape[2:])))
        return tokens.mT.reshape(x.shape)

    assert_parity(build("spatial_reduction", C, heads=HEADS, ratio=ratio), reference, normal(2, C, 8, 12))


def test_the_last_row_and_column_are_seen() -> None:
    """A convolution of stride 2 alone would leave the last row and column of an odd map out."""
    module, x = build("spatial_reduction", C, heads=HEADS), normal(1, C, 5, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, :, 0, 0].sum(), x)
    assert bool((gradient.abs().sum(1) > 0).all())


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    module = sc.create("spatial_reduction", 64)
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    assert shapes == [
        ("q.weight", (64, 64)),
        ("kv.weight", (128, 64)),
        ("proj.weight", (64, 64)),
        ("proj.bias", (64,)),
        ("sr.weight", (64, 64, 2, 2)),
        ("sr.bias", (64,)),
        ("norm.weight", (64,)),
        ("norm.bias", (64,)),
    ]
    assert module.get_parameter("kv.weight").std().item() == pytest.approx(0.02, rel=0.05)


def test_no_tensor_holds_all_weights() -> None:
    x = torch.randn(1, 16, 64, 64)
    assert largest_tensor(sc.create("spatial_reduction", 16, heads=2), x) <= 2 * x.numel()


def test_recorded_weights_equal_the_formula() -> None:
    module, x = build("spatial_reduction", C, heads=HEADS), normal(2, C, 5, 6)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert (recorded.query_shape, recorded.key_shape) == ((5, 6), (3, 3))
    expected = plain_weights(dict(module.named_parameters()), x, 2).detach()
    assert_close("weights", recorded.weights(), expected)


@pytest.mark.parametrize(
    ("options", "option"),
    [({"heads": 5}, "channels"), ({"heads": 0}, "heads"), ({"ratio": 0}, "ratio")],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="spatial_reduction", option=option, value=options.get(option, C)):
        sc.create("spatial_reduction", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="spatial_reduction", option="shape", value=shape):
        sc.create("spatial_reduction", C, heads=HEADS)(torch.zeros(shape))
