"""odconv equals the authors' formula, written image by image and kernel by kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise, relu, sigmoid

C = 6
VARIANTS: list[dict[str, Any]] = [
    {},
    {"kernel_size": 1},
    {"kernels": 1},
    {"kernels": 1, "kernel_size": 1},
    {"kernels": 2, "kernel_size": 5, "temperature": 3.0},
]


def gates(norm: BatchNorms, p: Parameters, x: Tensor, temperature: float = 1.0) -> dict[str, Tensor]:
    z = relu(norm(p, "norm", pointwise(p, "reduce", x.mean((2, 3), keepdim=True))))
    names = [name for name in ("channel", "filter", "place", "kernel") if f"{name}.weight" in p]
    logits = {name: pointwise(p, name, z)[..., 0, 0] / temperature for name in names}
    gate = {name: sigmoid(value) for name, value in logits.items() if name != "kernel"}
    if "kernel" in logits:
        exponentials = torch.exp(logits["kernel"])
        gate["kernel"] = exponentials / exponentials.sum(1, keepdim=True)
    return gate


def plain(norm: BatchNorms, p: Parameters, x: Tensor, temperature: float = 1.0) -> Tensor:
    gate, weight = gates(norm, p, x, temperature), p["weight"]
    k, images = weight.shape[-1], []
    for b, image in enumerate(x):
        total = torch.zeros(C, *image.shape[1:], dtype=x.dtype)
        for n, kernel in enumerate(weight):
            kernel = kernel * gate["channel"][b][None, :, None, None]
            kernel = kernel * gate["filter"][b][:, None, None, None]
            if "place" in gate:
                kernel = kernel * gate["place"][b].reshape(k, k)
            factor = gate["kernel"][b, n] if "kernel" in gate else 1.0
            total = total + factor * F.conv2d(image[None], kernel, padding=k // 2)[0]
        images.append(total)
    return torch.stack(images)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(3, C, 5, 4), (2, C, 1, 3)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any], training: bool) -> None:
    module, x = build("odconv", C, **options), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: plain(norm, p, x, options.get("temperature", 1.0)), x)
    if training:
        norm.assert_running()


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(64, 16, 16), (512, 16, 32), (64, 2, 32)])
def test_parameters_are_those_of_the_authors_in_their_order(
    channels: int, reduction: int, hidden: int
) -> None:
    shapes = [tuple(p.shape) for p in sc.create("odconv", channels, reduction=reduction).parameters()]
    one = [(channels, hidden, 1, 1), (channels,)]
    assert shapes == [
        (4, channels, channels, 3, 3),
        (hidden, channels, 1, 1),
        *2 * [(hidden,)],
        *2 * one,
        (9, hidden, 1, 1),
        (9,),
        (4, hidden, 1, 1),
        (4,),
    ]


def test_a_plain_convolution_is_a_special_case() -> None:
    """With gates of 1 and equal kernels, the layer is that convolution."""
    module, x = build("odconv", C).eval(), normal(2, C, 5, 4)
    with torch.no_grad():
        for name in ("channel", "filter", "place", "kernel"):
            module.get_parameter(f"{name}.weight").zero_()
            module.get_parameter(f"{name}.bias").fill_(100.0)
        weight = module.get_parameter("weight")
        weight.copy_(weight[:1].clone().expand_as(weight))
    assert_close("convolution", module(x), F.conv2d(x, weight[0], padding=1))


def test_the_kernels_of_one_image_do_not_depend_on_another() -> None:
    """A softmax over the batch, or a mixed reshape of batch and channels, would couple them."""
    module, x = build("odconv", C).eval(), normal(3, C, 5, 4)
    assert_close("alone", module(x[1:2]), module(x)[1:2])


def test_the_recorded_map_holds_the_weights_of_kernels_and_filters() -> None:
    module, x = build("odconv", C).eval(), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    gate = gates(BatchNorms(module), dict(module.named_parameters()), x)
    expected = torch.einsum("bn,bo->bno", gate["kernel"], gate["filter"]).detach()
    assert_close("weights", recorded.weights, expected)
    single = build("odconv", C, kernels=1).eval()
    with sc.record(single) as maps:
        y = single(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    assert_close("energy", recorded.energy, y.detach().abs().sum(1))  # there is one branch


def test_kernels_are_mixed_before_they_are_copied_for_each_image() -> None:
    x = torch.randn(4, 32, 8, 8)
    assert largest_tensor(sc.create("odconv", 32), x) == 4 * 32 * 32 * 9


def test_a_batch_of_one_cannot_train() -> None:
    module = sc.create("odconv", C)
    with raises(sc.BadShape, owner="odconv", option="shape", value=(1, C, 4, 4)):
        module(torch.randn(1, C, 4, 4))
    assert module.eval()(torch.randn(1, C, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("kernels", 0), ("reduction", 0), ("kernel_size", 4), ("kernel_size", 0), ("temperature", 0)],
)
def test_bad_options_are_refused(option: str, value: int) -> None:
    with raises(sc.BadOption, owner="odconv", option=option, value=value):
        sc.create("odconv", C, **{option: value})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="odconv", option="shape", value=shape):
        sc.create("odconv", C)(torch.zeros(shape))
