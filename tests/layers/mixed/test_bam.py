"""bam equals its formula, batch statistics and running buffers included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, conv3x3, pointwise, relu, sigmoid

C, REDUCTION = 12, 4


def gate(
    norm: BatchNorms,
    p: Parameters,
    x: Tensor,
    *,
    combine: str = "mul",
    dilation: int = 4,
    dilated_convs: int = 2,
) -> Tensor:
    hidden = pointwise(p, "channel.layers.0", x.mean((2, 3)))
    channel = pointwise(p, "channel.layers.3", relu(norm(p, "channel.layers.1", hidden)))
    z = relu(norm(p, "spatial.layers.1", pointwise(p, "spatial.layers.0", x)))
    for k in range(3, 3 + 3 * dilated_convs, 3):
        z = relu(norm(p, f"spatial.layers.{k + 1}", conv3x3(p, f"spatial.layers.{k}", z, dilation=dilation)))
    spatial = pointwise(p, f"spatial.layers.{3 + 3 * dilated_convs}", z)
    channel = channel[:, :, None, None]
    return sigmoid(channel * spatial if combine == "mul" else channel + spatial)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"combine": "add"},
        {"dilation": 1},
        {"dilation": 2, "dilated_convs": 1},
        {"dilated_convs": 3, "combine": "add"},
    ],
    ids=str,
)
def test_equals_the_formula(options: dict[str, Any], training: bool) -> None:
    module, x = build("bam", C, reduction=REDUCTION, **options), normal(3, C, 7, 5)
    module(normal(4, C, 6, 6, seed=1))
    norm = BatchNorms(module.train(training))
    convs = range(0, 3 + 3 * options.get("dilated_convs", 2), 3)
    vanishing = ["channel.layers.0.bias", *(f"spatial.layers.{k}.bias" for k in convs)]
    assert_parity(
        module,
        lambda p, x: x * (1 + gate(norm, p, x, **options)),
        x,
        vanishing=vanishing if training else (),
    )
    if training:
        norm.assert_running()
    else:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


def test_layers_are_those_of_the_authors() -> None:
    state = {
        name: tuple(value.shape) for name, value in sc.create("bam", 64).state_dict().items() if value.ndim
    }
    shapes = [shape for name, shape in state.items() if "running" not in name]
    channel = [(4, 64), (4,), (4,), (4,), (64, 4), (64,)]
    dilated = [(4, 4, 3, 3), (4,), (4,), (4,)]
    assert shapes == [*channel, (4, 64, 1, 1), (4,), (4,), (4,), *dilated, *dilated, (1, 4, 1, 1), (1,)]


def test_the_identity_is_kept_under_the_gate() -> None:
    """sigma lies between 0 and 1, so each value grows, at most to its double."""
    module, x = build("bam", C, reduction=REDUCTION), normal(3, C, 7, 5)
    ratio = (module(x) / x).detach()
    assert ratio.min() > 1
    assert ratio.max() < 2


def test_every_column_of_a_wide_map_counts() -> None:
    """The authors' code averages over H x H."""
    module, x = build("bam", C, reduction=REDUCTION).eval(), normal(1, C, 3, 9).requires_grad_()
    (gradient,) = torch.autograd.grad(module.get_submodule("channel")(x.mean((2, 3))).sum(), x)
    assert (gradient.abs().sum((0, 1)) > 0).all()
    wide = normal(1, C, 3, 20)
    changed = wide.clone()
    changed[..., -1] += 1  # further from the first column than the dilated convolutions look
    assert not torch.allclose(module(wide)[..., 0], module(changed)[..., 0])


def test_a_batch_of_one_cannot_train() -> None:
    module = sc.create("bam", 32)
    with raises(sc.BadShape, owner="bam", option="shape", value=(1, 32, 8, 8)):
        module(torch.randn(1, 32, 8, 8))
    assert module.eval()(torch.randn(1, 32, 1, 1)).shape == (1, 32, 1, 1)
    assert module.train()(torch.randn(2, 32, 1, 1)).shape == (2, 32, 1, 1)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"reduction": 13}, "channels"),
        ({}, "channels"),
        ({"reduction": 0}, "reduction"),
        ({"reduction": 4, "dilation": 0}, "dilation"),
        ({"reduction": 4, "dilated_convs": 0}, "dilated_convs"),
        ({"reduction": 4, "combine": "sum"}, "combine"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="bam", option=option, value=options.get(option, C)):
        sc.create("bam", C, **options)


@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (2, 10, 32), (0, 32, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="bam", option="shape", value=shape):
        sc.create("bam", 32)(torch.zeros(shape))


def test_nan_propagates() -> None:
    x = torch.full((1, 32, 4, 4), float("nan"))
    assert sc.create("bam", 32).eval()(x).isnan().all()


def test_recorded_maps_are_the_gate_averaged_over_the_other_axes() -> None:
    module, x = build("bam", C, reduction=REDUCTION).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    channel, spatial = maps["channel"], maps["spatial"]
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    assert maps[""] is spatial  # the map with places of its own stands for the whole
    weights = gate(BatchNorms(module), dict(module.named_parameters()), x).detach()
    assert_close("channel", channel.weights, weights.mean((2, 3)))
    assert_close("spatial", spatial.weights, weights.mean(1))
