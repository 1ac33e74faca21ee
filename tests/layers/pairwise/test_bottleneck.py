"""bottleneck equals timm's BottleneckAttn weight for weight, and the formula written pair by pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from saccade.ops import recompute
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C = 16
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_heads": 2, "qkv_bias": True},
    {"dim_head": 3, "scale_pos_embed": True},
    {"qk_ratio": 0.5},
    {"num_heads": 1, "qk_ratio": 2.0, "scale_pos_embed": True},
]


def weights(p: Parameters, x: Tensor, heads: int = 4, scale_positions: bool = False) -> Tensor:
    """(B, heads, H, W, H, W), pair by pair."""
    height, width = x.shape[2:]
    inner = (p["qkv.weight"].shape[0] - x.shape[1]) // 2
    q, k = (z.unflatten(1, (heads, -1)) for z in pointwise(p, "qkv", x)[:, : 2 * inner].chunk(2, 1))
    scale = q.shape[2] ** -0.5
    logits = torch.zeros(len(x), heads, height, width, height, width, dtype=x.dtype)
    for y in range(height):
        for z in range(width):
            for i in range(height):
                for j in range(width):
                    vector = p["pos_embed.height_rel"][i - y + height - 1]
                    vector = vector + p["pos_embed.width_rel"][j - z + width - 1]
                    position = (q[..., y, z] * vector).sum(2) * (scale if scale_positions else 1)
                    logits[:, :, y, z, i, j] = (q[..., y, z] * k[..., i, j]).sum(2) * scale + position
    exponentials = torch.exp(logits)
    return exponentials / exponentials.sum((4, 5), keepdim=True)


def plain(p: Parameters, x: Tensor, heads: int = 4, scale_positions: bool = False) -> Tensor:
    v = pointwise(p, "qkv", x)[:, -x.shape[1] :].unflatten(1, (heads, -1))
    return torch.einsum("bhyxij,bhcij->bhcyx", weights(p, x, heads, scale_positions), v).flatten(1, 2)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 3, 4), (1, C, 1, 3), (2, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module = build("bottleneck", C, feat_size=shape[2:], **options)
    switches = options.get("num_heads", 4), options.get("scale_pos_embed", False)
    assert_parity(module, lambda p, x: plain(p, x, *switches), normal(*shape))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(5, 4), (3, 7)], ids=str)
def test_equals_timm(size: tuple[int, int], options: dict[str, Any]) -> None:
    module = build("bottleneck", C, feat_size=size, **options)
    theirs = BottleneckAttn(C, feat_size=size, **options).double()
    assert [*theirs.state_dict()] == [*module.state_dict()]

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(parameters), (x,))
        return result

    assert_parity(module, reference, normal(2, C, *size))


def test_defaults_are_those_of_timm() -> None:
    for channels in (64, 72, 256):
        module = sc.create("bottleneck", channels, feat_size=7)
        theirs = BottleneckAttn(channels, feat_size=(7, 7))
        assert [p.shape for p in module.parameters()] == [p.shape for p in theirs.parameters()]


def test_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = build("bottleneck", C, feat_size=(4, 3)), normal(2, C, 4, 3)
    monkeypatch.setattr(recompute, "_FEW", 0)
    monkeypatch.setattr(recompute, "CHUNK", 2 * 4 * 12 * 5)  # five queries at a time
    assert_parity(module, plain, x)


def test_no_tensor_holds_all_pairs() -> None:
    module, x = sc.create("bottleneck", 8, feat_size=(48, 40)), torch.randn(1, 8, 48, 40)
    assert largest_tensor(module, x) <= recompute.CHUNK < 4 * (48 * 40) ** 2


def test_the_recorded_map_holds_all_weights_as_factors() -> None:
    module, x = build("bottleneck", C, feat_size=(3, 4)), normal(2, C, 3, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    expected = weights(dict(module.named_parameters()), x).detach().flatten(4).flatten(2, 3)
    assert_close("weights", recorded.weights(), expected)


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({}, "feat_size", None),
        ({"feat_size": (3, 4, 5)}, "feat_size", (3, 4, 5)),
        ({"feat_size": 4, "num_heads": 3}, "channels", C),
        ({"feat_size": 4, "num_heads": 0}, "num_heads", 0),
        ({"feat_size": 4, "num_heads": 16, "qk_ratio": 0.1}, "dim_head", 0),
        ({"feat_size": 4, "dim_head": 0}, "dim_head", 0),
        ({"feat_size": 4, "qk_ratio": 0.0}, "qk_ratio", 0.0),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="bottleneck", option=option, value=value):
        sc.create("bottleneck", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 5), (2, C, 5, 4), (2, C, 20), (0, C, 4, 5)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="bottleneck", option="shape", value=shape):
        sc.create("bottleneck", C, feat_size=(4, 5))(torch.zeros(shape))
