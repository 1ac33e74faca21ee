"""non_local equals equations 1 to 6 of the paper, written out with all pairs; and so do its parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.ops import chunks
from saccade.ops import softmax_attention as kernel
from saccade.ops.rectified_mean import rectified_mean
from saccade.ops.softmax_attention import softmax_attention
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

pytestmark = pytest.mark.usefixtures("without_all_weights")

C = 12
PAIRWISE = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
SHAPES = {1: (3, C, 7), 2: (2, C, 5, 4), 3: (2, C, 3, 5, 2)}
Options = Mapping[str, Any]


def conv(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    """A 1 x 1 convolution; the identity if there is none."""
    if f"{name}.weight" not in parameters:
        return x
    weight, bias = parameters[f"{name}.weight"].flatten(1), parameters[f"{name}.bias"]
    return torch.einsum("oc,bc...->bo...", weight, x) + bias.reshape(-1, *[1] * (x.ndim - 2))


def halved(x: Tensor) -> Tensor:
    """The maxima of windows of 2 along height and width, or along a sequence; an odd last one is left out."""
    for axis in [-1] if x.ndim == 3 else [-2, -1]:
        windows = x.narrow(axis, 0, x.shape[axis] // 2 * 2).unflatten(axis, (-1, 2))
        x = windows.amax(axis)
    return x


def pooled(parameters: Parameters, name: str, x: Tensor, options: Options) -> Tensor:
    """phi or g, where the option says."""
    if not options.get("sub_sample"):
        return conv(parameters, name, x)
    if options.get("pool", "input") == "input":
        return conv(parameters, name, halved(x))
    return halved(conv(parameters, name, x))


def plain_weights(parameters: Parameters, x: Tensor, options: Options) -> Tensor:
    """f / C of every pair, (B, N, M), row by row."""
    pairwise = options.get("pairwise", "embedded_gaussian")
    theta = conv(parameters, "theta", x).flatten(2)
    phi = pooled(parameters, "phi", x, options).flatten(2)
    inner, rows = theta.shape[1], []
    for i in range(theta.shape[2]):
        if pairwise == "concatenation":
            both = torch.cat([theta[:, :, i, None].expand_as(phi), phi], 1)
            row = torch.clamp(torch.einsum("d,bdm->bm", parameters["pair.weight"].flatten(), both), min=0)
        else:
            row = torch.einsum("bd,bdm->bm", theta[:, :, i], phi)
        if "gaussian" in pairwise:
            row = (row / inner**0.5 if options.get("scale") else row).exp()
            rows.append(row / row.sum(1, keepdim=True))
        else:
            rows.append(row / phi.shape[2])
    return torch.stack(rows, 1)


def mixed(parameters: Parameters, x: Tensor, options: Options) -> Tensor:
    """W_z y, before the batch norm."""
    weights = plain_weights(parameters, x, options)
    y = torch.einsum("bnm,bcm->bcn", weights, pooled(parameters, "g", x, options).flatten(2))
    return conv(parameters, "output", y).reshape(x.shape)


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 2))


def normalized(parameters: Parameters, z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    unit = (z - per_channel(mean, z)) / (per_channel(variance, z) + 1e-5).sqrt()
    return unit * per_channel(parameters["norm.weight"], z) + per_channel(parameters["norm.bias"], z)


def plain(parameters: Parameters, x: Tensor, options: Options) -> Tensor:
    z = mixed(parameters, x, options)
    if options.get("batch_norm", True):
        flat = z.transpose(0, 1).flatten(1)
        z = normalized(parameters, z, flat.mean(1), flat.var(1, unbiased=False))
    return x + z


CASES = [
    {"dims": dims, "pairwise": pairwise, **rest}
    for dims, pairwise in itertools.product((1, 2, 3), PAIRWISE)
    for rest in (
        {},
        {"batch_norm": False, "inner_channels": 5},
        {"sub_sample": True},
        {"sub_sample": True, "pool": "projection", "batch_norm": False},
        {"scale": True, "sub_sample": True, "inner_channels": C + 3},
    )
    if not (rest.get("scale") and "gaussian" not in pairwise)
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_the_formula(options: dict[str, Any]) -> None:
    module = build("non_local", C, **options)
    assert_parity(module, lambda p, x: plain(p, x, options), 0.5 * normal(*SHAPES[options["dims"]]))


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_batch_norm_keeps_its_statistics_and_uses_them_in_eval_mode(pairwise: str) -> None:
    options = {"pairwise": pairwise}
    module, x = build("non_local", C, **options), normal(*SHAPES[2])
    flat = mixed(dict(module.named_parameters()), x, options).detach().transpose(0, 1).flatten(1)
    mean, variance = 0.1 * flat.mean(1), 0.9 + 0.1 * flat.var(1, unbiased=True)
    module(x)
    buffers = dict(module.named_buffers())
    assert_close("running mean", buffers["norm.running_mean"], mean)
    assert_close("running variance", buffers["norm.running_var"], variance)
    assert buffers["norm.num_batches_tracked"].item() == 1

    def reference(p: Parameters, x: Tensor) -> Tensor:
        return x + normalized(p, mixed(p, x, options), mean, variance)

    assert_parity(module.eval(), reference, normal(2, C, 3, 6, seed=1))
    assert buffers["norm.num_batches_tracked"].item() == 1


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_starts_as_the_identity(dims: int, pairwise: str, batch_norm: bool) -> None:
    module = sc.create("non_local", C, dims=dims, pairwise=pairwise, batch_norm=batch_norm)
    x = normal(*SHAPES[dims]).float()
    for training in (True, False):
        assert (module.train(training)(x) - x).abs().max().item() == 0.0


def test_the_parameters_start_as_in_the_code_of_the_authors() -> None:
    torch.manual_seed(0)
    module = sc.create("non_local", 256, pairwise="concatenation")
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or name == "norm.weight":
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.1), name
    assert not sc.create("non_local", 256, batch_norm=False).get_parameter("output.weight").any()


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_the_parameters_are_those_of_the_paper(pairwise: str) -> None:
    module = sc.create("non_local", 8, dims=3, pairwise=pairwise)
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    expected = {"g", "output", "norm"}
    expected |= {"theta", "phi"} if pairwise != "gaussian" else set()
    expected |= {"pair"} if pairwise == "concatenation" else set()
    assert names == expected
    assert module.get_parameter("g.weight").shape == (4, 8, 1, 1, 1)
    if pairwise == "concatenation":
        assert {n: tuple(p.shape) for n, p in module.named_parameters() if n.startswith("pair")} == {
            "pair.weight": (1, 8, 1, 1, 1)
        }


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_pixels_are_tokens(pairwise: str) -> None:
    """A permutation of the pixels permutes the result: no reshape mixes pixels with channels."""
    module, x = build("non_local", C, pairwise=pairwise), normal(2, C, 5, 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (5, 4))
    assert_close("permuted", module(shuffled).flatten(2), module(x).flatten(2)[:, :, order])


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_map_beside_its_copy_gives_the_same(pairwise: str) -> None:
    """Twice the keys, each twice: a forgotten 1/N would double the result."""
    module, x = build("non_local", C, pairwise=pairwise, batch_norm=False), normal(2, C, 5, 4)
    assert_close("doubled", module(torch.cat([x, x], 3)), torch.cat([module(x)] * 2, 3))


def test_time_is_not_sub_sampled() -> None:
    module = build("non_local", C, dims=3, sub_sample=True)
    with sc.record(module) as maps:
        module(normal(1, C, 5, 7, 4))
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert (recorded.query_shape, recorded.key_shape) == ((5, 7, 4), (5, 3, 2))
    assert recorded.attention_from(t=4, y=6, x=0).shape == (1, 5, 3, 2)


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_recorded_weights_equal_the_formula(pairwise: str, sub_sample: bool) -> None:
    options = {"pairwise": pairwise, "sub_sample": sub_sample}
    module, x = build("non_local", C, **options), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    assert recorded.kind == "pairwise"
    expected = plain_weights(dict(module.named_parameters()), x, options).detach()
    assert_close("weights", recorded.weights()[:, 0], expected)
    assert_close("a row", recorded.attention_from(y=3, x=1).flatten(1), expected[:, 3 * 4 + 1])
    assert_close("the weight received", recorded.attention_received().flatten(1), expected.mean(1))


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_no_tensor_holds_all_pairs(pairwise: str) -> None:
    module = sc.create("non_local", 16, pairwise=pairwise)
    assert largest_tensor(module, torch.randn(1, 16, 80, 80)) < 6400**2 / 8


@pytest.mark.parametrize(
    ("channels", "options", "option"),
    [
        (1, {}, "channels"),
        (8, {"inner_channels": 0}, "inner_channels"),
        (8, {"dims": 4}, "dims"),
        (8, {"pairwise": "cosine"}, "pairwise"),
        (8, {"pool": "output"}, "pool"),
        (8, {"pairwise": "dot_product", "scale": True}, "scale"),
        (8, {"scale": -0.5}, "scale"),
        (8, {"scale": 0}, "scale"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(channels: int, options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="non_local", option=option, value=options.get(option, channels)):
        sc.create("non_local", channels, **options)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, C, 1, 1), {"sub_sample": True}),
        ((2, C, 4, 1), {"sub_sample": True}),
        ((2, C, 1), {"sub_sample": True, "dims": 1}),
        ((1, C, 1, 1), {}),
        ((2, 7, C), {}),
        ((2, C, 4, 4), {"dims": 1}),
        ((2, C, 4, 4), {"dims": 3}),
        ((0, C, 4, 4), {}),
    ],
    ids=str,
)
def test_other_shapes_are_refused(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    with raises(sc.BadShape, owner="non_local", option="shape", value=shape):
        sc.create("non_local", C, **options)(torch.zeros(shape))


# The sum over rectified sums.


def all_pairs(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """The formula of `rectified_mean`, with its N x M weights."""
    return torch.relu(a[:, :, None] + b[:, None]) @ g / b.shape[1]


def assert_rectified(a: Tensor, b: Tensor, g: Tensor) -> None:
    leaves = [x.clone().requires_grad_() for x in (a, b, g)]
    y, expected = rectified_mean(*leaves), all_pairs(*leaves)
    assert_close("the mean", y, expected)
    projection = normal(*y.shape, seed=9)
    for got, want in zip(
        torch.autograd.grad(y, leaves, projection),
        torch.autograd.grad(expected, leaves, projection),
        strict=True,
    ):
        assert_close("its gradient", got, want)


@pytest.mark.parametrize(("n", "m"), [(50, 70), (70, 50), (1, 9), (9, 1)])
def test_the_sorted_mean_equals_that_of_all_pairs(n: int, m: int) -> None:
    assert_rectified(normal(2, n) + 1, normal(2, m, seed=1), normal(2, m, 3, seed=2))


def test_ties_and_sums_of_zero_are_as_in_the_formula() -> None:
    a, b = normal(3, 40).round(), normal(3, 60, seed=1).round()
    assert (a[:, :, None] + b[:, None] == 0).any()
    assert_rectified(a, b, normal(3, 60, 2, seed=2))


def test_no_active_pair_gives_exactly_zero() -> None:
    y = rectified_mean(normal(2, 5) - 100, normal(2, 7), normal(2, 7, 3))
    assert torch.equal(y, torch.zeros_like(y))


def test_second_derivatives_of_the_mean() -> None:
    leaves = [normal(1, 4), normal(1, 5, seed=1), normal(1, 5, 2, seed=2)]
    torch.autograd.gradgradcheck(rectified_mean, [x.requires_grad_() for x in leaves])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_mean_is_exact_in_float32_even_if_a_and_b_nearly_cancel(offset: float) -> None:
    """Against float64 with the same rounded numbers; in float32, a G + H would be off by offset * 1e-7."""
    a, b = (normal(1, 4000) - offset).float(), (normal(1, 4000, seed=1) + offset).float()
    g = normal(1, 4000, 4, seed=2).float()
    leaves = [x.requires_grad_() for x in (a, b, g)]
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    y, expected = rectified_mean(*leaves), all_pairs(*doubles)
    projection = normal(*y.shape, seed=3).float()
    got = y, *torch.autograd.grad(y, leaves, projection)
    want = expected, *torch.autograd.grad(expected, doubles, projection.double())
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize("spoilt", [0, 1, 2])
def test_nan_reaches_every_mean_of_its_image_and_no_other(spoilt: int) -> None:
    tensors = [normal(2, 9), normal(2, 9, seed=1), normal(2, 9, 3, seed=2)]
    tensors[spoilt][1, 4] = float("nan")
    y = rectified_mean(*tensors)
    assert y[0].isfinite().all()
    assert y[1, 4].isnan().all()
    assert spoilt == 0 or y[1].isnan().all()


@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (8, 5), (3, 8), (70, 150), (2, 200)])
def test_attention_of_unequal_widths_equals_the_formula(inner: int, outer: int) -> None:
    shapes = (2, 6, inner), (2, 9, inner), (2, 9, outer)
    leaves = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    q, k, v = leaves
    ours, plain = softmax_attention(q, k, v, 0.3), (0.3 * q @ k.mT).softmax(-1) @ v
    assert_close("attention", ours, plain)
    projection = normal(*plain.shape, seed=9)
    got, want = (torch.autograd.grad(y, leaves, projection) for y in (ours, plain))
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        assert_close(f"gradient {i}", one, other)


def test_small_maps_keep_their_weights_and_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, values = normal(2, 6, 4), normal(2, 9, 4, seed=1), normal(2, 9, 5, seed=2)
    calls: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "softmax": (lambda q, k, v: softmax_attention(q, k, v, 0.3), (queries, keys, values)),
        "rectified": (rectified_mean, (queries[..., 0], keys[..., 0], values)),
    }
    for name, (call, tensors) in calls.items():
        results = []
        for few in (0, 2 * 6 * 9 - 1, 2 * 6 * 9):
            monkeypatch.setattr(chunks, "_FEW", few)
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            y = call(*leaves)
            results.append([y, *torch.autograd.grad(y.sin().sum(), leaves)])
            assert isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction) == (few < 2 * 6 * 9)
        for large, _, small in zip(*results, strict=True):
            assert_close(name, small, large)


@pytest.mark.parametrize("chunk", [1, 30, 10**9])
def test_attention_does_not_depend_on_how_many_rows_are_held(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_CHUNK", chunk)
    test_attention_of_unequal_widths_equals_the_formula(3, 8)


def test_second_derivatives_of_attention() -> None:
    leaves = [normal(1, n, 3, seed=n).requires_grad_() for n in (2, 4, 4)]
    torch.autograd.gradgradcheck(lambda q, k, v: softmax_attention(q, k, v, 0.3), leaves)
