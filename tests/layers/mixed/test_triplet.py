"""triplet equals its formula on rotated maps, batch statistics and running buffers included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, sigmoid

C = 6

# The order of axes of each gate's rotated map, (batch, pooled, rows of the plane, columns of the plane).
ROTATIONS = {"cw": (0, 2, 1, 3), "hc": (0, 3, 2, 1), "hw": (0, 1, 2, 3)}


def logits(p: Parameters, name: str, rotated: Tensor) -> Tensor:
    """The wide convolution of (max, mean) over the second axis, as a sum over its taps."""
    weight = p[f"{name}.0.weight"]
    size, (height, width) = weight.shape[-1], rotated.shape[2:]
    planes = torch.stack([torch.max(rotated, 1)[0], torch.mean(rotated, 1)], 1)
    padded, total = F.pad(planes, [size // 2] * 4), torch.zeros((), dtype=rotated.dtype)
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + height, j : j + width]
            total = total + (weight[0, :, i, j, None, None] * window).sum(1, keepdim=True)
    return total


def plain(norm: BatchNorms, p: Parameters, x: Tensor) -> Tensor:
    """Rotate, gate and rotate back, one gate after the other."""
    results = []
    for name, axes in ROTATIONS.items():
        if f"{name}.0.weight" in p:
            rotated = x.permute(axes)
            gated = rotated * sigmoid(norm(p, f"{name}.1", logits(p, name, rotated)))
            results.append(gated.permute(axes))  # each rotation is its own inverse
    return torch.stack(results).mean(0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(3, C, 7, 5), (2, C, 4, 4), (1, C, 2, 9)], ids=str)
@pytest.mark.parametrize("options", [{}, {"kernel_size": 3}, {"kernel_size": 1, "spatial": False}], ids=str)
def test_equals_the_formula(options: dict[str, Any], shape: tuple[int, ...], training: bool) -> None:
    module, x = build("triplet", C, **options), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: plain(norm, p, x), x)
    if not training:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


def test_equal_values_send_their_gradient_where_torch_max_does() -> None:
    module, x = build("triplet", C), F.relu(normal(2, C, 7, 5) - 0.5).round()
    assert (x == 0).sum() > x.numel() / 2
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: plain(norm, p, x), x)


def test_running_statistics_move_by_a_hundredth() -> None:
    module, x = build("triplet", C), normal(3, C, 7, 5)
    parameters = dict(module.named_parameters())
    module(x)
    buffers = dict(module.named_buffers())
    for name, axes in ROTATIONS.items():
        z = logits(parameters, name, x.permute(axes)).detach()
        assert_close(name, buffers[f"{name}.1.running_mean"], 0.01 * z.mean()[None])
        assert_close(name, buffers[f"{name}.1.running_var"], 0.99 + 0.01 * z.var(unbiased=True)[None])


@pytest.mark.parametrize("spatial", [True, False])
def test_layers_are_those_of_the_authors_in_their_order(spatial: bool) -> None:
    module = sc.create("triplet", 64, spatial=spatial)
    names = ["cw", "hc", "hw"] if spatial else ["cw", "hc"]
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == [
        pair
        for name in names
        for pair in ((f"{name}.0.weight", (1, 2, 7, 7)), (f"{name}.1.weight", (1,)), (f"{name}.1.bias", (1,)))
    ]
    assert not [layer for layer in module.modules() if isinstance(layer, nn.ReLU)]


@pytest.mark.parametrize(("plane", "pool"), [(0, torch.amax), (1, torch.mean)], ids=["max", "mean"])
@pytest.mark.parametrize(("name", "axis"), [("cw", 2), ("hc", 3), ("hw", 1)])
def test_the_first_plane_is_the_maximum_and_the_second_the_mean(
    name: str, axis: int, plane: int, pool: Any
) -> None:
    """With kernels of 1 x 1, each gate is the sigmoid of one pool; the two other gates are a half."""
    module, x = build("triplet", C, kernel_size=1).eval(), normal(2, C, 4, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0)
        module.get_parameter(f"{name}.0.weight")[0, plane] = 1
        module.get_parameter(f"{name}.1.weight").fill_(1)
    z = pool(x, axis, keepdim=True) / (1 + 1e-5) ** 0.5
    assert_close("one gate", module(x), x * (sigmoid(z) + 1) / 3)


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("triplet", 32), x) == x.numel()


@pytest.mark.parametrize("spatial", [True, False])
def test_the_recorded_map_is_the_mean_of_the_gates_over_channels(spatial: bool) -> None:
    module, x = build("triplet", C, spatial=spatial).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1).detach())


def test_a_plane_of_one_value_cannot_train() -> None:
    module = sc.create("triplet", C)
    with raises(sc.BadShape, owner="triplet", option="shape", value=(1, C, 1, 1)):
        module(torch.randn(1, C, 1, 1))
    assert module.eval()(torch.randn(1, C, 1, 1)).isfinite().all()
    assert module.train()(torch.randn(2, C, 1, 1)).isfinite().all()
    assert sc.create("triplet", C, spatial=False)(torch.randn(1, C, 1, 1)).isfinite().all()
    with raises(sc.BadShape, owner="triplet", option="shape", value=(1, 1, 4, 1)):
        sc.create("triplet", 1)(torch.randn(1, 1, 4, 1))


@pytest.mark.parametrize("kernel_size", [4, 0, -1, 2.5])
def test_bad_options_are_refused(kernel_size: float) -> None:
    with raises(sc.BadOption, owner="triplet", option="kernel_size", value=kernel_size):
        sc.create("triplet", C, kernel_size=kernel_size)


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (2, C, 10), (2, C, 3, 4, 4), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="triplet", option="shape", value=shape):
        sc.create("triplet", C)(torch.zeros(shape))
