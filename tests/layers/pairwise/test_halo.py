"""halo equals timm's HaloAttn weight for weight, and the formula written pair by pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from saccade.maps import HaloMap
from saccade.ops import recompute
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C = 16
BASE: dict[str, Any] = {"block_size": 2, "halo_size": 1, "num_heads": 2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"qkv_bias": True, "num_heads": 4},
    {"dim_head": 3, "scale_pos_embed": True},
    {"qk_ratio": 0.5, "halo_size": 2},
    {"halo_size": 0},
    {"block_size": 4, "halo_size": 3},
]


def windows(p: Parameters, x: Tensor, o: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The weights (B, heads, H, W, m, m) in the window of each position, and the values there."""
    (height, width), heads = x.shape[2:], o["num_heads"]
    block, halo = o["block_size"], o["halo_size"]
    window = block + 2 * halo
    q, kv = (pointwise(p, name, x).unflatten(1, (heads, -1)) for name in ("q", "kv"))
    inner = q.shape[2]
    shape = (len(x), heads, height, width, window, window)
    logits = torch.zeros(shape, dtype=x.dtype)
    values = torch.zeros(*shape, kv.shape[2] - inner, dtype=x.dtype)
    factor = inner**-0.5
    for y in range(height):
        for z in range(width):
            for i in range(window):
                for j in range(window):
                    row, column = y // block * block - halo + i, z // block * block - halo + j
                    vector = p["pos_embed.height_rel"][i - y % block + window - 1]
                    vector = vector + p["pos_embed.width_rel"][j - z % block + window - 1]
                    logit = (q[..., y, z] * vector).sum(2) * (factor if o.get("scale_pos_embed") else 1)
                    if 0 <= row < height and 0 <= column < width:  # otherwise key and value are 0
                        logit = logit + (q[..., y, z] * kv[:, :, :inner, row, column]).sum(2) * factor
                        values[:, :, y, z, i, j] = kv[:, :, inner:, row, column]
                    logits[:, :, y, z, i, j] = logit
    exponentials = torch.exp(logits)
    return exponentials / exponentials.sum((4, 5), keepdim=True), values


def plain(p: Parameters, x: Tensor, o: dict[str, Any]) -> Tensor:
    return torch.einsum("bhyxij,bhyxijc->bhcyx", *windows(p, x, o)).flatten(1, 2)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 4, 8), (1, C, 4, 4)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    chosen = {**BASE, **options}
    assert_parity(build("halo", C, **chosen), lambda p, x: plain(p, x, chosen), normal(*shape))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_timm(options: dict[str, Any]) -> None:
    chosen = {**BASE, **options}
    module, theirs = build("halo", C, **chosen), HaloAttn(C, **chosen).double()
    assert [*theirs.state_dict()] == [*module.state_dict()]

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(parameters), (x,))
        return result

    assert_parity(module, reference, normal(2, C, 8, 12))


def test_defaults_are_those_of_timm() -> None:
    for channels in (64, 72, 256):
        module, theirs = sc.create("halo", channels), HaloAttn(channels)
        assert [p.shape for p in module.parameters()] == [p.shape for p in theirs.parameters()]


def test_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "_FEW", 0)
    monkeypatch.setattr(recompute, "CHUNK", 1)  # one row of blocks at a time
    assert_parity(build("halo", C, **BASE), lambda p, x: plain(p, x, BASE), normal(2, C, 6, 4))


def test_neither_all_weights_nor_all_windows_are_held() -> None:
    module, x = sc.create("halo", 16), torch.randn(1, 16, 128, 128)
    assert largest_tensor(module, x) <= recompute.CHUNK < 8 * 128**2 * 14**2


def test_the_recorded_map_holds_the_weights() -> None:
    module, x = build("halo", C, **BASE), normal(2, C, 4, 6)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, HaloMap)
    weights = windows(dict(module.named_parameters()), x, BASE)[0].detach()
    rows = recorded.weights().unflatten(3, (4, 6)).unflatten(2, (4, 6))
    assert_close("in the middle", rows[:, :, 1, 2, 0:3, 1:5], weights[:, :, 1, 2, 1:])
    assert_close("at the corner", rows[:, :, 3, 5, 1:4, 3:6], weights[:, :, 3, 5, :3, :3])


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"num_heads": 3}, "channels", C),
        ({"num_heads": 0}, "num_heads", 0),
        ({"block_size": 0}, "block_size", 0),
        ({"halo_size": -1}, "halo_size", -1),
        ({"num_heads": 16, "qk_ratio": 0.1}, "dim_head", 0),
        ({"qk_ratio": 0.0}, "qk_ratio", 0.0),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="halo", option=option, value=value):
        sc.create("halo", C, **options)


@pytest.mark.parametrize(
    "shape", [(2, C + 1, 8, 8), (2, C, 9, 8), (2, C, 8, 4), (2, C, 1, 1), (2, C, 64), (0, C, 8, 8)], ids=str
)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="halo", option="shape", value=shape):
        sc.create("halo", C)(torch.zeros(shape))
