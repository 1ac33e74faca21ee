"""lambda_layer equals timm's LambdaLayer weight for weight, and the formula with the weights of all pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.lambda_layer import LambdaLayer
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from saccade.maps import OffsetMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise

C = 16
SIZE = (4, 3)
VARIANTS: list[dict[str, Any]] = [
    {"r": 3},
    {"num_heads": 2, "dim_head": None, "r": 5, "qkv_bias": True},
    {"dim_head": 3, "r": 1},
    {"dim_head": None, "qk_ratio": 0.5, "r": 3},
    {"r": None, "feat_size": SIZE},
    {},
]


def weights(norm: BatchNorms, p: Parameters, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of all pairs, (B, heads, N, N), the queries and the values."""
    (height, width), values = x.shape[2:], C // heads
    inner = (p["qkv.weight"].shape[0] - values) // (heads + 1)
    q, k, v = pointwise(p, "qkv", x).split([heads * inner, inner, values], 1)
    q, v = norm(p, "norm_q", q).unflatten(1, (heads, -1)).flatten(3), norm(p, "norm_v", v).flatten(2)
    k = torch.exp(k.flatten(2))
    k = k / k.sum(2, keepdim=True)
    table = p["pos_emb"].permute(2, 0, 1) if "pos_emb" in p else p["conv_lambda.weight"][:, 0, ..., 0]
    rows = []
    for position in range(height * width):
        vectors = []
        for other in range(height * width):
            i = other // width - position // width + table.shape[1] // 2
            j = other % width - position % width + table.shape[2] // 2
            inside = 0 <= i < table.shape[1] and 0 <= j < table.shape[2]
            vectors.append(k[:, :, other] + (table[:, i, j] if inside else 0))
        rows.append(torch.einsum("bhd,bdn->bhn", q[..., position], torch.stack(vectors, 2)))
    return torch.stack(rows, 2), q, v


def plain(norm: BatchNorms, p: Parameters, x: Tensor, heads: int) -> Tensor:
    pairs, q, v = weights(norm, p, x, heads)
    y = torch.einsum("bhpn,bvn->bhvp", pairs, v)
    if "conv_lambda.bias" in p:
        y = y + torch.einsum("bhdp,d->bhp", q, p["conv_lambda.bias"]).unsqueeze(2)
    return y.reshape(x.shape)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_formula(batch: int, options: dict[str, Any], training: bool) -> None:
    module, x = build("lambda_layer", C, **options), normal(batch, C, *SIZE)
    module(normal(4, C, *SIZE, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    heads = options.get("num_heads", 4)
    # In training the bias cancels: batch norm cancels that of q and v, and the softmax that of k.
    vanishing = ["qkv.bias"] if options.get("qkv_bias") and training else []
    assert_parity(module, lambda p, x: plain(norm, p, x, heads), x, vanishing=vanishing)
    if training:
        norm.assert_running()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_timm(options: dict[str, Any], training: bool) -> None:
    module = build("lambda_layer", C, **options).train(training)
    theirs = LambdaLayer(C, **options).double().train(training)
    assert [*theirs.state_dict()] == [*module.state_dict()]

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(parameters), (x,))
        return result

    vanishing = ["qkv.bias"] if options.get("qkv_bias") and training else []
    assert_parity(module, reference, normal(2, C, *SIZE), vanishing=vanishing)


def test_defaults_are_those_of_timm() -> None:
    for channels in (64, 72, 256):
        module, theirs = sc.create("lambda_layer", channels), LambdaLayer(channels)
        assert [p.shape for p in module.parameters()] == [p.shape for p in theirs.parameters()]


def test_no_tensor_holds_all_pairs() -> None:
    x = torch.randn(1, 32, 32, 24)
    assert largest_tensor(sc.create("lambda_layer", 32), x) == 16 * 8 * 32 * 24  # the lambdas of positions
    module = sc.create("lambda_layer", 32, r=None, feat_size=(32, 24))
    assert largest_tensor(module, x) == 16 * 8 * 32 * 24 < (32 * 24) ** 2


@pytest.mark.parametrize("options", [{"r": 3}, {"r": None, "feat_size": SIZE}], ids=str)
def test_the_recorded_map_holds_all_weights_as_factors(options: dict[str, Any]) -> None:
    module, x = build("lambda_layer", C, **options).eval(), normal(2, C, *SIZE)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, OffsetMap)
    expected, _, _ = weights(BatchNorms(module), dict(module.named_parameters()), x, 4)
    assert_close("weights", recorded.weights(), expected.detach())


def test_a_single_position_cannot_train() -> None:
    module = sc.create("lambda_layer", C)
    with raises(sc.BadShape, owner="lambda_layer", option="shape", value=(1, C, 1, 1)):
        module(torch.randn(1, C, 1, 1))
    assert module(torch.randn(2, C, 1, 1)).isfinite().all()
    assert module.eval()(torch.randn(1, C, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"num_heads": 3}, "channels", C),
        ({"num_heads": 0}, "num_heads", 0),
        ({"dim_head": 0}, "dim_head", 0),
        ({"r": 4}, "r", 4),
        ({"r": 0}, "r", 0),
        ({"r": None}, "feat_size", None),
        ({"r": None, "feat_size": (3, 4, 5)}, "feat_size", (3, 4, 5)),
        ({"qk_ratio": 0.0}, "qk_ratio", 0.0),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="lambda_layer", option=option, value=value):
        sc.create("lambda_layer", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="lambda_layer", option="shape", value=shape):
        sc.create("lambda_layer", C)(torch.zeros(shape))


def test_all_offsets_need_the_size_of_the_map() -> None:
    module = sc.create("lambda_layer", C, r=None, feat_size=SIZE)
    with raises(sc.BadShape, owner="lambda_layer", option="shape", value=(2, C, 3, 4)):
        module(torch.zeros(2, C, 3, 4))
