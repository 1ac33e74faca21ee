"""spatial_transformer equals the paper's sums, torch's affine grid and SciPy's thin-plate spline."""

from __future__ import annotations

import copy
import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from saccade.layers.sampling.spatial_transformer import (
    IDENTITY,
    Transform,
    sampling_grid,
    spatial_transformer,
    thin_plate_spline,
)
from support.errors import raises
from support.parity import TOLERANCE, Parameters, assert_close, assert_parity, build, normal

TRANSFORMS: tuple[Transform, ...] = get_args(Transform)
SQUARE = torch.tensor([[x / 3, y / 3] for y in (-3, -1, 1, 3) for x in (-3, -1, 1, 3)], dtype=torch.float64)


def theta_of(transform: Transform, batch: int = 2, std: float = 0.1) -> Tensor:
    """Parameters a little away from the identity."""
    identity = torch.tensor(IDENTITY[transform], dtype=torch.float64)
    return identity + std * normal(batch, len(identity), seed=5)


def place(theta: Tensor, transform: Transform, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where one point of the output lies in the input, by the equations of the docstring. theta (n,)."""
    if transform == "attention":
        return theta[0] * x + theta[1], theta[0] * y + theta[2]
    if transform == "thin_plate_spline":
        at = RBFInterpolator(SQUARE.numpy(), np.eye(16), kernel="thin_plate_spline", degree=1)
        cardinal = torch.from_numpy(at(torch.stack([x, y])[None].numpy())[0])  # linear in the values
        values = theta.reshape(16, 2)
        return cardinal @ values[:, 0], cardinal @ values[:, 1]
    depth = theta[6] * x + theta[7] * y + 1 if transform == "projective" else 1
    return (theta[0] * x + theta[1] * y + theta[2]) / depth, (theta[3] * x + theta[4] * y + theta[5]) / depth


def coordinate(index: int, extent: int, align_corners: bool) -> Tensor:
    """Of a pixel: -1 to 1 from the first to the last center, or from edge to edge."""
    value = 2 * index / (extent - 1) - 1 if align_corners else (2 * index + 1) / extent - 1
    return torch.tensor(value, dtype=torch.float64)


def transformed(
    x: Tensor, theta: Tensor, transform: Transform, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Equation 5 with loops: x (B, C, H, W), theta (B, n) -> (B, C, *size)."""
    height, width = x.shape[2:]
    images = []
    for image, parameters in zip(x, theta, strict=True):
        values = []
        for i, j in itertools.product(range(size[0]), range(size[1])):
            at = coordinate(j, size[1], align_corners), coordinate(i, size[0], align_corners)
            u, v = place(parameters, transform, *at)
            if align_corners:
                u, v = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
            else:
                u, v = (u + 1) / 2 * width - 0.5, (v + 1) / 2 * height - 0.5
            columns = (1 - (u - torch.arange(width)).abs()).clamp(min=0)
            rows = (1 - (v - torch.arange(height)).abs()).clamp(min=0)
            values.append(torch.einsum("chw,h,w->c", image, rows, columns))
        images.append(torch.stack(values, 1).reshape(-1, *size))
    return torch.stack(images)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(7, 5), (4, 9)], ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_sampling_equals_the_formula(
    transform: Transform, size: tuple[int, int], align_corners: bool
) -> None:
    x, theta = normal(2, 3, 7, 5).requires_grad_(), theta_of(transform).requires_grad_()
    got = spatial_transformer(x, sampling_grid(theta, transform, size, align_corners), align_corners)
    expected = transformed(x, theta, transform, size, align_corners)
    assert_close("the output", got, expected)
    projection = normal(*expected.shape, seed=9)
    gradients, references = (torch.autograd.grad(y, [x, theta], projection) for y in (got, expected))
    for name, gradient, reference in zip(("x", "theta"), gradients, references, strict=True):
        assert_close(f"the gradient of {name}", gradient, reference)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_module_equals_the_formula_with_its_own_network(transform: Transform) -> None:
    module = build("spatial_transformer", 3, transform=transform, size=(4, 6))
    with torch.no_grad():
        module.get_parameter("head.weight").mul_(0.02)
        module.get_parameter("head.bias").copy_(theta_of(transform, 1)[0])

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        maps = x
        for layer in ("0", "2"):
            weight, bias = (parameters[f"localization.layers.{layer}.{p}"] for p in ("weight", "bias"))
            maps = F.conv2d(maps, weight, bias, stride=2, padding=1).clamp(min=0)
        height, width = maps.shape[2:]
        moments = []
        for power in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)):
            total = torch.zeros_like(maps[:, :, 0, 0])
            for i, j in itertools.product(range(height), range(width)):
                at = coordinate(j, width, False), coordinate(i, height, False)
                total = total + maps[:, :, i, j] * at[0] ** power[0] * at[1] ** power[1]
            moments.append(total / (height * width))
        mass, *places = moments
        features = torch.stack([mass, *(place / (mass + 1e-3) for place in places)], -1).flatten(1)
        mix, head = (
            {p: parameters[f"{layer}.{p}"] for p in ("weight", "bias")}
            for layer in ("localization.mix", "head")
        )
        hidden = (features @ mix["weight"].T + mix["bias"]).clamp(min=0)
        theta = hidden @ head["weight"].T + head["bias"]
        return transformed(x, theta, transform, (4, 6), False)

    assert_parity(module, reference, normal(2, 3, 9, 7))


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_affine_grid_is_that_of_torch(align_corners: bool) -> None:
    theta = theta_of("affine", 3)
    got = sampling_grid(theta, "affine", (6, 11), align_corners)
    expected = F.affine_grid(theta.reshape(3, 2, 3), [3, 1, 6, 11], align_corners=align_corners)
    assert_close("the grid", got, expected)


def test_the_thin_plate_spline_equals_that_of_scipy() -> None:
    points = normal(200, 2, seed=1) * 1.5
    for controls in (SQUARE, normal(9, 2, seed=2)):
        values = normal(2, len(controls), 3, seed=3)
        got = thin_plate_spline(points, controls, values)
        for interpolated, expected in zip(got, values, strict=True):
            scipy = RBFInterpolator(controls.numpy(), expected.numpy(), kernel="thin_plate_spline", degree=1)
            assert_close("at arbitrary points", interpolated, torch.from_numpy(scipy(points.numpy())))
        at_controls = thin_plate_spline(controls, controls, values)
        torch.testing.assert_close(at_controls, values, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 64, 48), (1, 1, 1, 1), (1, 2, 1, 9), (1, 3, 127, 101)], ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_start_is_the_identity(transform: Transform, shape: tuple[int, ...], align_corners: bool) -> None:
    x = torch.rand(shape)
    module = sc.create("spatial_transformer", shape[1], transform=transform, align_corners=align_corners)
    assert (module(x) - x).abs().max() < 1e-5


def photograph(size: int) -> Tensor:
    """A face, (1, 3, size, size), smooth enough to be followed downhill."""
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(image[:, :, :400, 50:450], (size, size), mode="bilinear", antialias=True)
    return F.avg_pool2d(small, 5, stride=1, padding=2, count_include_pad=False)


class Nothing(nn.Module):
    """Features that say nothing: the transform is the same for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), 1)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_known_warp_of_a_photograph_is_learned(transform: Transform) -> None:
    image = photograph(64)
    torch.manual_seed(0)
    theta = theta_of(transform, 1, std=0.06 if transform == "thin_plate_spline" else 0.12).float()
    known = sampling_grid(theta, transform, (64, 64), False)
    target = spatial_transformer(image, known)
    inside = (known.abs() < 0.9).all(-1)
    module = sc.create("spatial_transformer", 3, transform=transform, localization=Nothing())
    module(image)  # the head learns how many features there are
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    losses = []
    for _ in range(250):
        loss = (module(image) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with sc.record(module) as maps:
        module(image)
    recorded = maps[""]
    assert isinstance(recorded, sc.GridMap)
    pixels = (recorded.grid - known).norm(dim=-1)[inside] * 32
    start = (sampling_grid(torch.tensor([IDENTITY[transform]]), transform, (64, 64), False) - known).norm(
        dim=-1
    )
    assert start[inside].mean() * 32 > 1.5, "there must be something to learn"
    assert losses[-1] < 1e-2 * losses[0]
    assert pixels.mean() < 0.25


def test_a_network_of_the_user_may_return_maps_and_is_saved_and_copied() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 7)

    def fresh() -> nn.Module:
        return sc.create("spatial_transformer", 4, localization=nn.Conv2d(4, 2, 3), transform="attention")

    module = fresh()
    assert (module(x) - x).abs().max() < 1e-5
    assert module.get_parameter("head.weight").shape == (3, 2 * 7 * 5)
    with torch.no_grad():
        module.get_parameter("head.weight").normal_(std=0.1)
    twin = fresh()
    twin.load_state_dict(module.state_dict())
    for other in (twin, copy.deepcopy(module)):
        torch.testing.assert_close(other(x), module(x))


def test_recorded_samples() -> None:
    x = torch.randn(2, 3, 8, 6)
    module = sc.create("spatial_transformer", 3, transform="attention", size=(20, 30))
    with torch.no_grad():
        module.get_parameter("head.bias").copy_(torch.tensor([0.25, 0.5, -0.5]))  # the upper right
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.GridMap)
    assert recorded.grid.shape == (2, 20, 30, 2)
    density = recorded.saliency()
    assert density.shape == (2, 8, 6)
    torch.testing.assert_close(density.sum((1, 2)), torch.full((2,), 600.0))
    assert density[0, :4, 3:].sum() > 0.95 * density[0].sum()


class Wrong(nn.Module):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> Any:  # noqa: ARG002
        return self.result


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"transform": "rotation"}, "transform", "rotation"),
        ({"localization": 3}, "localization", 3),
        ({"size": 0}, "size", 0),
        ({"size": (3, 0)}, "size", 0),
        ({"size": (3, 4, 5)}, "size", (3, 4, 5)),
        ({"size": 2.5}, "size", 2.5),
    ],
)
def test_bad_options(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="spatial_transformer", option=option, value=value):
        sc.create("spatial_transformer", 3, **options)


@pytest.mark.parametrize(
    ("result", "value"),
    [(None, "NoneType"), (torch.zeros(2), (2,)), (torch.zeros(3, 4), (3, 4))],
    ids=["None", "1-D", "batch"],
)
def test_a_localization_must_return_a_row_for_each_image(result: Any, value: object) -> None:
    module = sc.create("spatial_transformer", 3, localization=Wrong(result))
    with raises(sc.BadShape, owner="spatial_transformer", option="localization", value=value):
        module(torch.zeros(2, 3, 8, 8))


def test_a_sequence_is_not_a_map_and_nan_stays_in_its_image() -> None:
    module = sc.create("spatial_transformer", 3)
    with raises(sc.BadShape, owner="spatial_transformer", option="shape", value=(2, 3, 8)):
        module(torch.zeros(2, 3, 8))
    x = torch.rand(3, 3, 8, 8)
    x[1] = float("nan")
    torch.testing.assert_close(module(x)[[0, 2]], x[[0, 2]])
