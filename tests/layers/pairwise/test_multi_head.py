"""multi_head equals torch.nn.MultiheadAttention, and its additions equal their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import saccade as sc
from saccade.layers.pairwise.multi_head import sincos2d
from support.errors import raises
from support.parity import Largest, Parameters, assert_close, assert_parity, build, normal

C, HEADS = 24, 3


def torch_attention(*, weights: bool = False) -> Callable[..., Tensor]:
    """torch's own module, as a function of our parameters."""
    mha = nn.MultiheadAttention(C, HEADS, batch_first=True, dtype=torch.float64)

    def reference(parameters: Parameters, query: Tensor, *others: Tensor) -> Tensor:
        key = others[0] if others else query
        value = others[1] if len(others) > 1 else key
        options = {"need_weights": weights, "average_attn_weights": False}
        result: Any = functional_call(mha, dict(parameters), (query, key, value), options)
        chosen: Tensor = result[1 if weights else 0]
        return chosen

    return reference


def pixels(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def image(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def plain_attention(parameters: Parameters, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula, head by head, of projected tokens (B, L, C)."""
    heads, width = [], C // HEADS
    for h in range(HEADS):
        own = slice(h * width, (h + 1) * width)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(width)
        heads.append((scores.exp() / scores.exp().sum(-1, keepdim=True)) @ v[..., own])
    return torch.cat(heads, -1) @ parameters["out_proj.weight"].T + parameters["out_proj.bias"]


def linear_self_attention(parameters: Parameters, tokens: Tensor) -> Tensor:
    projected = tokens @ parameters["in_proj_weight"].T + parameters["in_proj_bias"]
    return plain_attention(parameters, *projected.chunk(3, dim=-1))


def test_state_dict_is_that_of_torch() -> None:
    ours, theirs = build("multi_head", C, heads=HEADS), nn.MultiheadAttention(C, HEADS)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(
    "inputs",
    [
        (normal(3, 7, C),),
        (normal(3, 5, C), normal(3, 7, C, seed=1)),
        (normal(3, 5, C), normal(3, 7, C, seed=1), normal(3, 7, C, seed=2)),
    ],
    ids=["self", "query and key", "query, key and value"],
)
def test_sequences_equal_torch(inputs: tuple[Tensor, ...]) -> None:
    assert_parity(build("multi_head", C, heads=HEADS), torch_attention(), *inputs)


def test_maps_are_sequences_of_their_pixels() -> None:
    theirs = torch_attention()
    assert_parity(
        build("multi_head", C, heads=HEADS),
        lambda p, x: image(theirs(p, pixels(x)), 5, 4),
        normal(2, C, 5, 4),
    )
    assert_parity(
        build("multi_head", C, heads=HEADS),
        lambda p, q, k: image(theirs(p, pixels(q), pixels(k)), 5, 4),
        normal(2, C, 5, 4),
        normal(2, C, 3, 6, seed=1),
    )


@pytest.mark.parametrize("shapes", [((3, 7, C),), ((3, 5, C), (3, 7, C)), ((2, C, 5, 4),)], ids=str)
def test_recorded_weights_equal_torch(shapes: tuple[tuple[int, ...], ...]) -> None:
    module = build("multi_head", C, heads=HEADS)
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    with sc.record(module) as maps:
        module(*inputs)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    tokens = [pixels(x) if x.ndim == 4 else x for x in inputs]
    expected = torch_attention(weights=True)(dict(module.named_parameters()), *tokens)
    assert_close("weights", recorded.weights(), expected)


@pytest.mark.parametrize(("projection", "axes"), [("conv1d", 1), ("conv2d", 2)])
def test_convolutions_of_one_equal_the_linear_projection(projection: str, axes: int) -> None:
    theirs = torch_attention()

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        flat = {**parameters, "in_proj_weight": parameters["in_proj_weight"].flatten(1)}
        return image(theirs(flat, pixels(x)), 5, 4)

    module = build("multi_head", C, heads=HEADS, projection=projection)
    assert module.in_proj_weight.shape == (3 * C, C, *[1] * axes)
    assert_parity(module, reference, normal(2, C, 5, 4))


def test_conv1d_equals_a_loop_over_tokens() -> None:
    def project(parameters: Parameters, tokens: Tensor) -> Tensor:
        weight, length = parameters["in_proj_weight"], tokens.shape[1]
        rows = []
        for t in range(length):
            row = parameters["in_proj_bias"].expand(len(tokens), -1)
            for offset in (-1, 0, 1):
                if 0 <= t + offset < length:
                    row = row + tokens[:, t + offset] @ weight[:, :, offset + 1].T
            rows.append(row)
        return torch.stack(rows, 1)

    def reference(parameters: Parameters, tokens: Tensor) -> Tensor:
        return plain_attention(parameters, *project(parameters, tokens).chunk(3, dim=-1))

    module = build("multi_head", C, heads=HEADS, projection="conv1d", kernel_size=3)
    assert_parity(module, reference, normal(2, 7, C))
    assert_parity(module, lambda p, x: image(reference(p, pixels(x)), 3, 4), normal(2, C, 3, 4))


def test_conv2d_equals_a_loop_over_pixels_for_each_input() -> None:
    def project(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        total = bias[None, :, None, None].expand(len(x), -1, height, width)
        for dy in range(3):
            for dx in range(3):
                window = padded[:, :, dy : dy + height, dx : dx + width]
                total = total + torch.einsum("oc,bchw->bohw", weight[:, :, dy, dx], window)
        return pixels(total)

    def reference(parameters: Parameters, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights, biases = parameters["in_proj_weight"].chunk(3), parameters["in_proj_bias"].chunk(3)
        q, k, v = map(project, weights, biases, (query, key, value))
        return image(plain_attention(parameters, q, k, v), *query.shape[2:])

    module = build("multi_head", C, heads=HEADS, projection="conv2d", kernel_size=3)
    inputs = normal(2, C, 3, 5), normal(2, C, 4, 2, seed=1), normal(2, C, 4, 2, seed=2)
    assert_parity(module, reference, *inputs)
    assert_parity(module, lambda p, x: reference(p, x, x, x), inputs[0])


def layer_norm(parameters: Parameters, x: Tensor) -> Tensor:
    centerd = x - x.mean(-1, keepdim=True)
    unit = centerd / (centerd.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * parameters["norm.weight"] + parameters["norm.bias"]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_residual_and_norm_are_those_of_the_transformer(residual: bool, norm: bool) -> None:
    def reference(parameters: Parameters, tokens: Tensor) -> Tensor:
        y = linear_self_attention(parameters, tokens)
        y = y + tokens if residual else y
        return layer_norm(parameters, y) if norm else y

    module = build("multi_head", C, heads=HEADS, residual=residual, norm=norm)
    assert_parity(module, reference, normal(2, 7, C))
    assert_parity(module, lambda p, x: image(reference(p, pixels(x)), 3, 5), normal(2, C, 3, 5))


def test_the_fixed_code_equals_plain_loops() -> None:
    height, width, channels = 3, 5, 12
    quarter = channels // 4
    code = sincos2d(height, width, channels, like=torch.zeros(()))
    assert code.shape == (height * width, channels)
    for y in range(height):
        for x in range(width):
            for i in range(quarter):
                omega = 10000 ** (-i / (quarter - 1))
                expected = math.sin(x * omega), math.cos(x * omega), math.sin(y * omega), math.cos(y * omega)
                got = code[y * width + x, i::quarter].tolist()
                assert got == pytest.approx(expected, abs=1e-6)  # the code is computed in float32


@pytest.mark.parametrize("channels", [4, 8])
def test_the_fixed_code_tells_all_positions_apart(channels: int) -> None:
    code = sincos2d(6, 9, channels, like=torch.zeros(()))
    assert len({tuple(row) for row in code.tolist()}) == 6 * 9


def test_positions_are_added_before_the_projection_and_not_to_the_residual() -> None:
    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        tokens = pixels(x)
        placed = tokens + sincos2d(3, 5, C, like=x)
        return image(linear_self_attention(parameters, placed) + tokens, 3, 5)

    module = build("multi_head", C, heads=HEADS, position="sincos2d", residual=True)
    assert_parity(module, reference, normal(2, C, 3, 5))

    learned = build("multi_head", C, heads=HEADS, position="learned", tokens=7)
    assert_parity(learned, lambda p, x: linear_self_attention(p, x + p["table"]), normal(2, 7, C))
    with raises(sc.BadShape, owner="multi_head", option="shape", value=(2, 6, C)):
        learned(normal(2, 6, C))


def test_shapes_of_the_catalog() -> None:
    for shape, tokens in (((128, 32, 256), 32), ((4, 256, 24, 24), 576)):
        module = sc.create("multi_head", 256, heads=8)
        with sc.record(module) as maps, torch.no_grad():
            assert module(torch.randn(shape)).shape == shape
        recorded = maps[""]
        assert isinstance(recorded, sc.PairwiseMap)
        assert recorded.weights().shape == (shape[0], 8, tokens, tokens)


def test_recording_a_large_map_never_holds_all_pairs() -> None:
    side = 96
    all_pairs = side**4
    module = sc.create("multi_head", 64, heads=1)
    with Largest() as largest, torch.no_grad():  # type: ignore[no-untyped-call]
        with sc.record(module) as maps:
            module(torch.randn(1, 64, side, side))
        recorded = maps[""]
        assert isinstance(recorded, sc.PairwiseMap)
        row, received = recorded.attention_from(y=90, x=3), recorded.attention_received()
    assert row.shape == received.shape == (1, side, side)
    assert row.sum().item() == pytest.approx(1, abs=1e-4)
    assert received.sum().item() == pytest.approx(1, abs=1e-4)
    assert largest.elements < all_pairs / 16


def test_all_pairs_would_be_noticed() -> None:
    tokens = torch.randn(1, 1, 256, 8)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        sc.PairwiseMap(tokens, tokens, 1.0, (16, 16), (16, 16)).weights()
    assert largest.elements == 256**2


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"heads": 5}, "channels", C),
        ({"heads": 0}, "heads", 0),
        ({"projection": "conv1d", "kernel_size": 2, "heads": 3}, "kernel_size", 2),
        ({"kernel_size": 3, "heads": 3}, "kernel_size", 3),
        ({"position": "learned", "heads": 3}, "tokens", None),
        ({"tokens": 7, "heads": 3}, "tokens", 7),
        ({"projection": "conv3d"}, "projection", "conv3d"),
    ],
    ids=str,
)
def test_options_at_odds_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="multi_head", option=option, value=value):
        sc.create("multi_head", C, **options)


def test_key_and_value_must_agree() -> None:
    with raises(sc.BadShape, owner="multi_head", option="shape", value=(1, 5, C)):
        sc.create("multi_head", C, heads=3)(*(torch.zeros(1, length, C) for length in (3, 4, 5)))
