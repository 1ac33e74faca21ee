"""global_context equals timm's GlobalContext and its formula, for every pool and fusion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.global_context import GlobalContext
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise, relu, sigmoid

C, REDUCTION = 12, 4
VARIANTS = [
    {"pool": pool, "fusion": fusion}
    for pool in ("attention", "mean")
    for fusion in ("add", "multiply", "both")
]


def weights(p: Parameters, x: Tensor) -> Tensor:
    """(B, N), each position by itself; equal for a module without a mask."""
    if "mask.weight" not in p:
        return torch.full_like(x[:, 0], 1 / x[0, 0].numel()).flatten(1)
    exponentials = pointwise(p, "mask", x).flatten(1).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def bottleneck(p: Parameters, name: str, context: Tensor) -> Tensor:
    hidden = pointwise(p, f"{name}.0", context)
    variance = hidden.var(1, unbiased=False, keepdim=True)
    unit = (hidden - hidden.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
    return pointwise(
        p, f"{name}.3", relu(unit * p[f"{name}.1.weight"].flatten() + p[f"{name}.1.bias"].flatten())
    )


def plain(p: Parameters, x: Tensor) -> Tensor:
    context = torch.einsum("bcn,bn->bc", x.flatten(2), weights(p, x))
    ones, y = [1] * (x.ndim - 2), x
    if "multiply.0.weight" in p:
        y = y * sigmoid(bottleneck(p, "multiply", context)).reshape(*x.shape[:2], *ones)
    if "add.0.weight" in p:
        y = y + bottleneck(p, "add", context).reshape(*x.shape[:2], *ones)
    return y


@pytest.mark.parametrize("shape", [(2, C, 7, 5), (1, C, 1, 1), (3, C, 6), (2, C, 3, 2, 4)], ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_formula(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    module = build("global_context", C, reduction=REDUCTION, **options)
    # The softmax cancels the bias; for a single position it cancels the weight, too.
    assert_parity(module, plain, normal(*shape))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_timm(options: dict[str, Any]) -> None:
    theirs = GlobalContext(
        C,
        use_attn=options["pool"] == "attention",
        fuse_add=options["fusion"] != "multiply",
        fuse_scale=options["fusion"] != "add",
        rd_channels=C // REDUCTION,
    ).double()
    for name, layer in theirs.named_modules():
        if name.endswith("norm"):
            layer.eps = 1e-5  # timm has another one than the authors
    layers = {"fc1": "0", "norm": "1", "fc2": "3"}

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        mapped = {}
        for name, parameter in theirs.named_parameters():
            block, *layer, kind = name.split(".")
            ours = {"conv_attn": "mask", "mlp_add": "add", "mlp_scale": "multiply"}[block]
            path = ".".join([ours, *(layers[part] for part in layer), kind])
            mapped[name] = parameters[path].reshape(parameter.shape)
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    assert_parity(build("global_context", C, reduction=REDUCTION, **options), reference, normal(3, C, 7, 5))


def test_it_starts_as_the_identity_or_half_of_it() -> None:
    x = torch.randn(2, 32, 9, 7)
    assert torch.equal(sc.create("global_context", 32)(x), x)
    for fusion in ("multiply", "both"):
        assert torch.equal(sc.create("global_context", 32, fusion=fusion)(x), x / 2)


def test_the_default_adds_one_vector_to_all_positions() -> None:
    """Copies multiply by a gate instead."""
    module, x = build("global_context", C, reduction=REDUCTION), normal(2, C, 7, 5)
    added = (module(x) - x).detach()
    assert_close("the same everywhere", added, added[..., :1, :1].expand_as(x))


def test_layers_are_those_of_the_authors_in_their_order() -> None:
    state = sc.create("global_context", 64, fusion="both").state_dict()
    block = [(4, 64, 1, 1), (4,), (4, 1, 1), (4, 1, 1), (64, 4, 1, 1), (64,)]
    assert [tuple(value.shape) for value in state.values()] == [(1, 64, 1, 1), (1,), *block, *block]
    assert [name.split(".")[0] for name in state] == ["mask"] * 2 + ["add"] * 6 + ["multiply"] * 6


def test_the_mask_has_he_initialization() -> None:
    torch.manual_seed(0)
    state = sc.create("global_context", 8192).state_dict()
    assert state["mask.weight"].std().item() == pytest.approx((2 / 8192) ** 0.5, rel=0.05)
    assert state["mask.bias"].item() == 0


def test_the_weights_are_normalized_over_positions() -> None:
    """A constant added to all positions of the logits changes nothing; one more image changes nothing."""
    module, x = build("global_context", C, reduction=REDUCTION), normal(3, C, 7, 5)
    with sc.record(module) as maps:
        before = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("sums", recorded.weights.sum((1, 2)), torch.ones(3).double())
    assert_close("weights", recorded.weights.flatten(1), weights(dict(module.named_parameters()), x).detach())
    with torch.no_grad():
        module.get_parameter("mask.bias").add_(3)
    assert_close("shifted", module(x), before)
    assert_close("alone", module(x[1:2]), before[1:2])


def test_the_mean_records_equal_weights() -> None:
    module, x = build("global_context", C, reduction=REDUCTION, pool="mean"), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, torch.ones(2, 7, 5).double() / 35)


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("global_context", 32), x) == x.numel()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "channels"),
        ({"reduction": 13}, "channels"),
        ({"reduction": 0}, "reduction"),
        ({"hidden": 0}, "hidden"),
        ({"reduction": 4, "pool": "max"}, "pool"),
        ({"reduction": 4, "fusion": "sum"}, "fusion"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="global_context", option=option, value=options.get(option, C)):
        sc.create("global_context", C, **options)


@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (2, 32), (0, 32, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="global_context", option="shape", value=shape):
        sc.create("global_context", 32)(torch.zeros(shape))
