"""self_attention equals equations 1 to 3 of the paper, written out; its spectral norm equals torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

pytestmark = pytest.mark.usefixtures("without_all_weights")

C = 24
AUTHORS = {"value_reduction": 2, "spectral_norm": True, "sub_sample": True, "bias": False}


def conv(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of (B, C, H, W), one pixel at a time; the identity if there is none."""
    if f"{name}.weight" not in parameters:
        return x
    weight = parameters[f"{name}.weight"][:, :, 0, 0]
    bias = parameters.get(f"{name}.bias", torch.zeros(len(weight), dtype=x.dtype))
    rows = [
        torch.stack([x[:, :, i, j] @ weight.T + bias for j in range(x.shape[3])], 2)
        for i in range(x.shape[2])
    ]
    return torch.stack(rows, 2)


def halved(x: Tensor) -> Tensor:
    """The maxima of 2 x 2 windows; an odd last row or column is left out."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    corners = [x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners).amax(0)


def plain_weights(parameters: Parameters, x: Tensor, sub_sample: bool = False) -> Tensor:
    """(B, N, M), softmax over the keys."""
    q, k = conv(parameters, "query", x), conv(parameters, "key", x)
    k = halved(k) if sub_sample else k
    scores = torch.einsum("bcn,bcm->bnm", q.flatten(2), k.flatten(2))
    return scores.exp() / scores.exp().sum(2, keepdim=True)


def plain(parameters: Parameters, x: Tensor, sub_sample: bool = False) -> Tensor:
    values = conv(parameters, "value", x)
    values = (halved(values) if sub_sample else values).flatten(2)
    mixed = torch.einsum("bnm,bcm->bcn", plain_weights(parameters, x, sub_sample), values)
    return x + parameters["gamma"] * conv(parameters, "output", mixed.unflatten(2, x.shape[2:]))


@pytest.mark.parametrize("shape", [(2, C, 4, 4), (3, C, 5, 3), (1, C, 2, 7)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": 3},
        {"bias": False},
        {"value_reduction": 2},
        {"value_reduction": 5, "sub_sample": True},
        {"sub_sample": True},
        {"value_reduction": C, "reduction": 1},
    ],
    ids=str,
)
def test_equals_the_formula(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    module = build("self_attention", C, **options)
    assert_parity(module, lambda p, x: plain(p, x, options.get("sub_sample", False)), normal(*shape))


def test_wide_values_equal_the_formula() -> None:
    """On the CPU the values are split among heads: 130 channels into three of 64, the last one padded."""
    assert_parity(build("self_attention", 130, reduction=26), plain, normal(2, 130, 3, 2))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_spectral_norm_is_that_of_torch() -> None:
    """Two training passes and one in eval mode: values, gradients and the vectors u and v."""
    ours = build("self_attention", C, **AUTHORS)
    own: dict[str, Any] = {name: ours.get_submodule(name) for name in ("query", "key", "value", "output")}
    theirs: dict[str, Any] = {}
    for name, conv in own.items():
        linear = nn.Linear(conv.in_channels, conv.out_channels, bias=False).double()
        theirs[name] = nn.utils.spectral_norm(linear)
        state = {"weight_orig": conv.weight.flatten(1), "weight_u": conv.u, "weight_v": conv.v}
        theirs[name].load_state_dict(state)
    for seed, training in ((0, True), (1, True), (2, False)):
        ours.train(training)
        gamma = ours.get_parameter("gamma")
        weights = {"gamma": gamma}
        for name, linear in theirs.items():
            linear.train(training)(torch.zeros(1, linear.in_features, dtype=torch.float64))
            weights[f"{name}.weight"] = linear.weight[:, :, None, None]
        x = normal(2, C, 5, 4, seed=seed).requires_grad_()
        output, expected = ours(x), plain(weights, x, sub_sample=True)
        assert_close("the output", output, expected)
        projection = normal(*expected.shape, seed=9)
        ours_at = [x, gamma, *(conv.weight for conv in own.values())]
        theirs_at = [x, gamma, *(linear.weight_orig for linear in theirs.values())]
        got = torch.autograd.grad(output, ours_at, projection)
        want = torch.autograd.grad(expected, theirs_at, projection)
        for i, (one, other) in enumerate(zip(got, want, strict=True)):
            assert_close(f"gradient {i}", one.flatten(), other.flatten())
        for name, conv in own.items():
            assert_close(f"{name}.u", conv.u, theirs[name].weight_u)
            assert_close(f"{name}.v", conv.v, theirs[name].weight_v)


def test_a_weight_is_divided_by_its_largest_singular_value() -> None:
    conv = sc.create("self_attention", C, **AUTHORS).double().get_submodule("value")
    for _ in range(500):
        conv(normal(1, C, 2, 2))
    weight = conv(torch.eye(C, dtype=torch.float64)[:, :, None, None])[:, :, 0, 0]
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("options", [{}, AUTHORS], ids=str)
def test_it_starts_as_the_identity(options: dict[str, Any]) -> None:
    x = torch.randn(2, 32, 9, 7)
    module = sc.create("self_attention", 32, **options)
    for training in (True, False):
        assert (module.train(training)(x) - x).abs().max().item() == 0.0


def test_the_parameters_are_those_of_the_authors() -> None:
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in sc.create("self_attention", 64, **AUTHORS).named_parameters()
    }
    assert shapes == {
        "gamma": (1,),
        "query.weight": (8, 64, 1, 1),
        "key.weight": (8, 64, 1, 1),
        "value.weight": (32, 64, 1, 1),
        "output.weight": (64, 32, 1, 1),
    }
    assert "output.weight" not in sc.create("self_attention", 64).state_dict()


def test_pixels_are_tokens() -> None:
    """A permutation of the pixels permutes the result: no reshape mixes pixels with channels."""
    module, x = build("self_attention", C), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


@pytest.mark.parametrize("sub_sample", [False, True])
def test_recorded_weights_equal_the_formula(sub_sample: bool) -> None:
    module, x = build("self_attention", C, sub_sample=sub_sample), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert (recorded.query_shape, recorded.key_shape) == ((5, 4), (2, 2) if sub_sample else (5, 4))
    expected = plain_weights(dict(module.named_parameters()), x, sub_sample).detach()
    assert_close("weights", recorded.weights()[:, 0], expected)


@pytest.mark.parametrize("options", [{}, {"value_reduction": 16}], ids=str)
def test_no_tensor_holds_all_pairs(options: dict[str, Any]) -> None:
    module = sc.create("self_attention", 16, **options)
    assert largest_tensor(module, torch.randn(1, 16, 80, 80)) < 6400**2 / 8


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [
        (4, {}, "channels"),
        (8, {"value_reduction": 9}, "channels"),
        (8, {"reduction": 0}, "reduction"),
        (8, {"value_reduction": -1}, "value_reduction"),
    ],
    ids=str,
)
def test_options_that_leave_no_channel_are_refused(
    channels: int, options: dict[str, Any], option: str
) -> None:
    with raises(sc.BadOption, owner="self_attention", option=option, value=options.get(option, channels)):
        sc.create("self_attention", channels, **options)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, C, 1, 1), {"sub_sample": True}),
        ((2, C, 4, 1), {"sub_sample": True}),
        ((2, 7, C), {}),
        ((0, C, 4, 4), {}),
    ],
    ids=str,
)
def test_other_shapes_are_refused(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    with raises(sc.BadShape, owner="self_attention", option="shape", value=shape):
        sc.create("self_attention", C, **options)(torch.zeros(shape))


def test_a_single_position_attends_to_itself() -> None:
    assert_parity(build("self_attention", C), plain, normal(2, C, 1, 1))
