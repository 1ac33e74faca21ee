"""split_attention equals timm's SplitAttn and its formula, batch statistics and running buffers included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.split_attn import SplitAttn
from torch import Tensor, nn
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, conv3x3, relu, sigmoid

C = 12
VARIANTS: list[dict[str, Any]] = [
    {},
    {"radix": 1},
    {"radix": 3, "reduction": 1},
    {"radix": 2, "cardinality": 2},
    {"radix": 3, "cardinality": 4},
    {"radix": 1, "cardinality": 4},
]


def grouped(p: Parameters, name: str, x: Tensor, groups: int) -> Tensor:
    """A grouped 1 x 1 convolution of vectors (B, C), one group after the other."""
    parts = zip(x.chunk(groups, 1), p[f"{name}.weight"].flatten(1).chunk(groups), strict=True)
    return torch.cat([part @ weight.T for part, weight in parts], 1) + p[f"{name}.bias"]


def plain_weights(norm: BatchNorms, p: Parameters, u: Tensor, radix: int, cardinality: int) -> Tensor:
    """(B, R, C). Logits are in the order cardinal group, split, channel; features: split, group, channel."""
    s = torch.stack(u.chunk(radix, 1)).sum(0).mean((2, 3))
    z = relu(norm(p, "reduce.1", grouped(p, "reduce.0", s, cardinality)))
    logits = grouped(p, "select", z, cardinality)
    width = C // cardinality
    rows = []
    for r in range(radix):
        starts = [(k * radix + r) * width for k in range(cardinality)]
        rows.append(torch.cat([logits[:, start : start + width] for start in starts], 1))
    if radix == 1:
        return sigmoid(rows[0])[:, None]
    exponentials = torch.stack(rows, 1).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def features(norm: BatchNorms, p: Parameters, x: Tensor, radix: int, cardinality: int) -> Tensor:
    return relu(norm(p, "norm", conv3x3(p, "conv", x, groups=radix * cardinality)))


def plain(norm: BatchNorms, p: Parameters, x: Tensor, radix: int = 2, cardinality: int = 1) -> Tensor:
    u = features(norm, p, x, radix, cardinality)
    weights = plain_weights(norm, p, u, radix, cardinality)
    return torch.einsum("brchw,brc->bchw", u.unflatten(1, (radix, -1)), weights)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_formula(options: dict[str, Any], training: bool) -> None:
    module, x = build("split_attention", C, **options), normal(3, C, 7, 5)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    switches = {name: options[name] for name in ("radix", "cardinality") if name in options}
    vanishing = ["reduce.0.bias"] if training else []
    assert_parity(module, lambda p, x: plain(norm, p, x, **switches), x, vanishing=vanishing)
    if training:
        norm.assert_running()
    else:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("options", [v for v in VARIANTS if "reduction" not in v], ids=str)
def test_equals_timm(options: dict[str, Any], kernel_size: int, training: bool) -> None:
    module = build("split_attention", C, kernel_size=kernel_size, **options).train(training)
    theirs = SplitAttn(
        C,
        kernel_size=kernel_size,
        radix=options.get("radix", 2),
        groups=options.get("cardinality", 1),
        norm_layer=nn.BatchNorm2d,
    )
    theirs = theirs.double().train(training)
    names = {"conv": "conv", "bn0": "norm", "fc1": "reduce.0", "bn1": "reduce.1", "fc2": "select"}

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        mapped = {}
        for name, _ in theirs.named_parameters():
            layer, kind = name.split(".")
            mapped[name] = parameters[f"{names[layer]}.{kind}"]
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    vanishing = ["reduce.0.bias"] if training else []
    assert_parity(module, reference, normal(3, C, 7, 5), vanishing=vanishing)


def test_the_weights_of_the_splits_sum_to_1_for_every_channel() -> None:
    module, x = build("split_attention", C, radix=3, cardinality=2).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    assert recorded.weights.shape == (2, 3, C)
    assert_close("sums", recorded.weights.sum(1), torch.ones(2, C).double())
    # The features are not negative, so the energy is what comes out.
    assert_close("energy", recorded.energy, y.detach().sum(1))
    norm, p = BatchNorms(module), dict(module.named_parameters())
    expected = plain_weights(norm, p, features(norm, p, x, 3, 2), 3, 2)
    assert_close("weights", recorded.weights, expected.detach())


def test_a_single_split_is_gated_by_a_sigmoid() -> None:
    """A softmax over one split would be 1 everywhere, and nothing would learn."""
    module, x = build("split_attention", C, radix=1).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    assert recorded.weights.std() > 0.01
    assert recorded.weights.max() < 1


def test_features_are_rectified_before_they_are_pooled() -> None:
    """If all features are negative, the descriptor is that of a mean of 0."""
    module, x = build("split_attention", C).eval(), normal(2, C, 7, 5)
    with torch.no_grad():
        module.get_parameter("norm.weight").zero_()
        module.get_parameter("norm.bias").fill_(-1)
    with sc.record(module) as maps:
        assert not module(x).any()
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    assert_close("weights", recorded.weights[0], recorded.weights[1])
    norm, p = BatchNorms(module), dict(module.named_parameters())
    zeros = torch.zeros(2, 2 * C, 1, 1).double()
    assert_close("weights", recorded.weights, plain_weights(norm, p, zeros, 2, 1).detach())


@pytest.mark.parametrize(
    ("channels", "options", "hidden"),
    [(64, {}, 32), (256, {}, 128), (64, {"reduction": 1, "cardinality": 2}, 128), (64, {"radix": 4}, 64)],
)
def test_layers_are_those_of_the_authors(channels: int, options: dict[str, Any], hidden: int) -> None:
    radix, cardinality = options.get("radix", 2), options.get("cardinality", 1)
    shapes = [tuple(p.shape) for p in sc.create("split_attention", channels, **options).parameters()]
    splits = radix * channels
    assert shapes == [
        (splits, channels // (radix * cardinality), 3, 3),
        *[(splits,)] * 2,
        (hidden, channels // cardinality, 1, 1),
        *[(hidden,)] * 3,
        (splits, hidden // cardinality, 1, 1),
        (splits,),
    ]


def test_no_tensor_is_larger_than_the_splits() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("split_attention", 32), x) == 2 * x.numel()


def test_a_batch_of_one_cannot_train() -> None:
    module = sc.create("split_attention", 32)
    with raises(sc.BadShape, owner="split_attention", option="shape", value=(1, 32, 8, 8)):
        module(torch.randn(1, 32, 8, 8))
    assert module.eval()(torch.randn(1, 32, 1, 1)).shape == (1, 32, 1, 1)
    assert module.train()(torch.randn(2, 32, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"radix": 5}, "channels"),
        ({"radix": 2, "cardinality": 4}, "channels"),
        ({"radix": 2, "cardinality": 3}, "cardinality"),
        ({"radix": 0}, "radix"),
        ({"cardinality": -1}, "cardinality"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"reduction": 0}, "reduction"),
        ({"hidden": 0}, "hidden"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="split_attention", option=option, value=options.get(option, C)):
        sc.create("split_attention", C, **options)


@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (2, 32, 10), (0, 32, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="split_attention", option="shape", value=shape):
        sc.create("split_attention", 32)(torch.zeros(shape))
