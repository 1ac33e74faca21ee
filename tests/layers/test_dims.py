"""Mechanisms with an option `dims` equal their 2-D form on an axis of size 1; that form has parity tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import saccade as sc
from saccade.models import ClipCNN
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

C = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "cbam": {"reduction": 4},
    "bam": {"reduction": 4, "dilation": 2},
    "sk": {"groups": 4, "min_dim": 5, "paths": 3},
    "spatial_gate": {"relu": True},
    "self_attention": {"value_reduction": 2, "spectral_norm": True},
}
BEFORE_A_NORM = {"bam": ["channel.layers.0.bias", *(f"spatial.layers.{k}.bias" for k in (0, 3, 6))]}
SIZES = (5, 7)


def planar(weight: Tensor, axis: int) -> Tensor:
    """Return the 2-D kernel that acts as a kernel of another dimension does on an axis of size 1."""
    if weight.ndim == 5:  # the other slices see the padding alone
        return weight.select(2 + axis, weight.shape[2] // 2)
    if weight.ndim == 3:
        k = weight.shape[2]
        rows = torch.cat([weight.unsqueeze(2)] + [normal(*weight.shape).unsqueeze(2)] * (k - 1), 2)
        return rows.roll(k // 2, 2)
    return weight


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dims", "axis"), [(1, 0), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_2d_form_on_an_axis_of_size_1(name: str, dims: int, axis: int, training: bool) -> None:
    module = build(name, C, dims=dims, **OPTIONS[name]).train()
    shape = [*SIZES[:axis], 1, *SIZES[axis:]] if dims == 3 else [SIZES[1]]
    module(normal(4, C, *shape, seed=1))  # so that running statistics are not those of the start
    module.train(training)
    flat: nn.Module = build(name, C, **OPTIONS[name]).train(training)
    assert [key for key, _ in flat.named_parameters()] == [key for key, _ in module.named_parameters()]
    buffers = {key: copy.deepcopy(buffer) for key, buffer in module.named_buffers()}

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        state = {key: planar(p, axis) for key, p in parameters.items()} | buffers
        image = x.squeeze(2 + axis) if dims == 3 else x.unsqueeze(2)
        y: Tensor = functional_call(flat, state, (image,))
        return y.reshape(x.shape)

    vanishing = BEFORE_A_NORM.get(name, ()) if training else ()
    assert_parity(module, reference, normal(3, C, *shape), vanishing=vanishing)
    for key, buffer in module.named_buffers():
        assert_close(key, buffer.double(), buffers[key].double())


@pytest.mark.parametrize("shape", [(2, C, 7), (2, C, 4, 3, 5)], ids=str)
def test_self_attention_pools_every_axis(shape: tuple[int, ...]) -> None:
    def conv(parameters: Parameters, name: str, x: Tensor) -> Tensor:
        weight, bias = parameters[f"{name}.weight"].flatten(1), parameters[f"{name}.bias"]
        return torch.einsum("oc,bcn->bon", weight, x.flatten(2)) + bias[:, None]

    def halved(x: Tensor) -> Tensor:
        x = x.unflatten(2, shape[2:])
        for axis in range(2, x.ndim):
            x = x.narrow(axis, 0, x.shape[axis] // 2 * 2).unflatten(axis, (-1, 2)).amax(axis + 1)
        return x.flatten(2)

    def reference(p: Parameters, x: Tensor) -> Tensor:
        q, k, v = conv(p, "query", x), halved(conv(p, "key", x)), halved(conv(p, "value", x))
        weights = torch.einsum("bcn,bcm->bnm", q, k).exp()
        mixed = torch.einsum("bnm,bcm->bcn", weights / weights.sum(2, keepdim=True), v)
        return x + (p["gamma"] * mixed).reshape(x.shape)

    assert_parity(build("self_attention", C, dims=len(shape) - 2, sub_sample=True), reference, normal(*shape))


@pytest.mark.parametrize("shape", [(2, C, 9), (2, C, 3, 5, 4)], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_maps_have_the_axes_of_the_features(name: str, shape: tuple[int, ...]) -> None:
    module, x = build(name, C, dims=len(shape) - 2, **OPTIONS[name]).eval(), normal(*shape)
    with sc.record(module) as maps:
        module(x)
    recorded = maps["spatial"] if name in ("cbam", "bam") else maps[""]
    # The heat map of pairs is the attention that each position receives.
    assert recorded.saliency().shape == (2, *shape[2:])
    larger = tuple(2 * n for n in shape[2:])
    assert recorded.heatmap(larger).shape == (2, *larger)
    if name == "spatial_gate":
        gated = x * recorded.saliency().unsqueeze(1)
        assert_close("the gate", gated, module(x).detach())


@pytest.mark.parametrize("dims", [0, 4, True, "2"])
@pytest.mark.parametrize("name", OPTIONS)
def test_other_dims_are_refused(name: str, dims: Any) -> None:
    with raises(sc.BadOption, owner=name, option="dims", value=dims):
        sc.create(name, C, **{**OPTIONS[name], "dims": dims})


@pytest.mark.parametrize("name", OPTIONS)
def test_an_image_is_no_volume(name: str) -> None:
    module = sc.create(name, C, dims=3, **OPTIONS[name])
    with raises(sc.BadShape, owner=name, option="shape", value=(2, C, 4, 4)):
        module(torch.zeros(2, C, 4, 4))


def test_options_that_examples_of_some_axes_share() -> None:
    spec = sc.spec("cbam")
    assert (spec.options_for("B C W"), spec.options_for("B C H W")) == ({"dims": 1}, {})
    assert spec.options_for("B L C") is None
    assert [name for name in OPTIONS if sc.spec(name).options_for("B C T H W") != {"dims": 3}] == []


def test_a_slot_of_a_network_of_clips_chooses_dims() -> None:
    model = ClipCNN(3, attention={2: "cbam:reduction=4,kernel_size=3"})
    assert model.get_parameter("attention.2.spatial.conv.weight").shape == (1, 2, 3, 3, 3)
    assert model(torch.randn(2, 3, 3, 16, 16)).shape == (2, 3)
